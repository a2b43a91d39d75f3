"""The 64-bit checksum of a message: a weighted sum of its 32-bit words, modulo 2⁶⁴.

Each section (header, block table, index, values, counts) is read as little-endian 32-bit words, the last one
filled up with zero bytes. Word i counts (2i+1)·G mod 2³² times, an odd number, and each section's sum counts an
odd number of times again. Therefore one flipped bit changes the checksum by an odd multiple of a power of two
below 2⁶⁴, which is never zero; and since the sum is linear, pieces of a section may be added in any order, on
any device, by any number of threads, with the same result. It guards against damage, not against an adversary.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.exchange.parallel import map_chunks

_GOLDEN = 0x9E3779B1
_SECTION_WEIGHTS = (
    0x9E3779B97F4A7C15,
    0xBF58476D1CE4E5B9,
    0x94D049BB133111EB,
    0xD6E8FEB86659FD93,
    0xA0761D6478BD642F,
)
_MASK64 = 2**64 - 1
_CHUNK_BYTES = 1 << 22
_SCAN_BYTES = 1 << 22
_CACHED_BYTES = 1 << 17
_HALVES = np.uint64(0x0001_0001_0001_0001)
_EXPONENTS = {  # of every value in a 64-bit word: exponent bits, lowest exponent bit, sign bit
    torch.float32: (np.uint64(0x7F80_0000_7F80_0000), np.uint64(0x0080_0000_0080_0000), np.uint64(2**63 + 2**31)),
    torch.float16: (np.uint64(0x7C00) * _HALVES, np.uint64(0x0400) * _HALVES, np.uint64(0x8000) * _HALVES),
    torch.bfloat16: (np.uint64(0x7F80) * _HALVES, np.uint64(0x0080) * _HALVES, np.uint64(0x8000) * _HALVES),
}


class Section(IntEnum):
    """The parts of a message, in order."""

    HEADER = 0
    TABLE = 1
    INDEX = 2
    VALUES = 3
    COUNTS = 4


def checksum(section: Section, piece: UInt8[Tensor, " bytes"], offset: int = 0) -> int:
    """What `piece`, which starts at byte `offset` of `section`, adds to the message's checksum.

    The checksum of a message is the sum of its pieces' checksums modulo 2⁶⁴.
    """
    total = _sum_cpu(piece, offset) if piece.device.type == "cpu" else sum_words(piece, offset)
    return (total & _MASK64) * _SECTION_WEIGHTS[section] & _MASK64


def scan_values(values: Shaped[Tensor, " values"], offset: int) -> tuple[int, bool]:
    """The checksum of a piece of the value section, and whether all its values are finite; one pass over memory."""
    piece = values.view(torch.uint8)
    if values.device.type != "cpu" or values.dtype is torch.uint8:  # codes are always finite
        return checksum(Section.VALUES, piece, offset), bool(torch.isfinite(values).all())
    data, (exponent, carry, sign) = piece.numpy(), _EXPONENTS[values.dtype]

    def scan(first: int, last: int) -> tuple[int, bool]:
        total, finite = _scan(data[first:last], offset + first, exponent, carry, sign)
        return int(total), bool(finite)

    parts = map_chunks(scan, len(data), _SCAN_BYTES)
    total = sum(part for part, _ in parts) & _MASK64
    return total * _SECTION_WEIGHTS[Section.VALUES] & _MASK64, all(finite for _, finite in parts)


@njit(nogil=True, cache=True)
def _scan(
    data: NDArray[np.uint8], offset: int, exponent: np.uint64, carry: np.uint64, sign: np.uint64
) -> tuple[np.uint64, bool]:
    """Both passes over one piece after the other, each piece small enough to be in the cache for the second."""
    total, finite = np.uint64(0), True
    for first in range(0, data.size, _CACHED_BYTES):
        part = data[first : first + _CACHED_BYTES]
        total += _sum_bytes(part, offset + first)
        finite &= _all_finite(part, exponent, carry, sign)
    return total, finite


@njit(nogil=True, cache=True)
def _all_finite(data: NDArray[np.uint8], exponent: np.uint64, carry: np.uint64, sign: np.uint64) -> bool:
    """Whether no value has all exponent bits set, as only infinities and NaNs have; several values a word.

    Adding the exponent's lowest bit to a full exponent carries into the sign bit, and no other exponent does.
    """
    num_words = data.size // 8
    seen = np.uint64(0)
    for word in data[: 8 * num_words].view(np.uint64):
        seen |= (word & exponent) + carry
    last = np.uint64(0)
    for position in range(8 * num_words, data.size):
        last |= np.uint64(data[position]) << np.uint64(8 * (position % 8))
    seen |= (last & exponent) + carry
    return bool((seen & sign) == 0)


def combine(*parts: int) -> int:
    """The checksum of pieces that were summed apart."""
    return sum(parts) & _MASK64


def _sum_cpu(piece: Tensor, offset: int) -> int:
    data = piece.numpy()
    parts = map_chunks(lambda first, last: int(_sum_bytes(data[first:last], offset + first)), len(data), _CHUNK_BYTES)
    return sum(parts)


@njit(nogil=True, cache=True)
def _sum_bytes(data: NDArray[np.uint8], offset: int) -> np.uint64:
    """The weighted sum of `data` at byte `offset` of its section: edges byte by byte, whole words vectorised."""
    total = np.uint64(0)
    start, end = 0, data.size
    while start < end and (offset + start) % 4:
        total += _edge(data[start], offset + start)
        start += 1
    num_words = (end - start) // 4
    words = data[start : start + 4 * num_words].view(np.uint32)
    first = np.uint32((offset + start) // 4)
    weight = np.uint32((np.uint64(2) * np.uint64(first) + np.uint64(1)) * np.uint64(_GOLDEN))
    step = np.uint32((2 * _GOLDEN) & 0xFFFFFFFF)
    for index in range(num_words):
        odd = np.uint32(weight + np.uint32(np.uint32(index) * step))
        total += np.uint64(words[index]) * np.uint64(odd)
    for position in range(start + 4 * num_words, end):
        total += _edge(data[position], offset + position)
    return total


@njit(nogil=True, cache=True)
def _edge(byte: np.uint8, position: int) -> np.uint64:
    odd = np.uint32((np.uint64(2) * np.uint64(position // 4) + np.uint64(1)) * np.uint64(_GOLDEN))
    return (np.uint64(byte) << np.uint64(8 * (position % 4))) * np.uint64(odd)


def sum_words(piece: UInt8[Tensor, " bytes"], offset: int = 0) -> int:
    """The weighted sum on any device; equal to the CPU kernel's."""
    front = offset % 4
    back = -(front + piece.numel()) % 4
    padded = torch.nn.functional.pad(piece, (front, back))
    words = padded.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    index = torch.arange(offset // 4, offset // 4 + words.numel(), device=piece.device)
    odd = ((2 * index + 1) * _GOLDEN) & 0xFFFFFFFF
    return int((words * odd).sum().item())
