"""Working on packed masks: count, compare, and move values between a vector and the positions of a mask.

Owns: the innermost loops over parameters, compiled for the CPU, in torch operations for any other device (and
held equal on the CPU by the tests). Does not own: threads (`parallel.py`), what a mask means.

Masks are packed as `fedpurin.space.pack_mask` does, and as long as whole 64-bit words. The compiled loops over
values are free of branches: a mask bit is added to the write position instead of being tested, because a test on
random bits would be mispredicted every other time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from fedpurin.exchange.blocks import word_tensor
from fedpurin.exchange.parallel import map_chunks, map_items
from fedpurin.space import unpack_mask

CHUNK_WORDS = 1 << 12
"""Words of a mask (64 parameters each) that a thread takes at a time: 1 MiB of values, an L2 cache's worth."""


@intrinsic
def popcount(typing_context: Any, word: Any) -> Any:
    """The number of set bits of a 64-bit word, one machine instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


def words_of(packed: UInt8[Tensor, " bytes"]) -> np.ndarray:
    """A packed CPU mask as 64-bit words, without a copy where it is aligned."""
    return word_tensor(packed).numpy().view(np.uint64)


def count(packed: UInt8[Tensor, " bytes"]) -> int:
    """‖m‖₁."""
    if packed.device.type == "cpu":
        return int(_count(words_of(packed)))
    return int(unpack_mask(packed).sum().item())


@numba.njit(nogil=True, cache=True)
def _count(words: np.ndarray) -> int:
    total = np.uint64(0)
    for word in words:
        total += popcount(word)
    return total


def prefix_counts(packed: UInt8[Tensor, " bytes"], chunk_words: int) -> list[int]:
    """Set bits before each chunk of `chunk_words` words, and in all: one more number than chunks."""
    words = words_of(packed)
    parts = [int(_count(words[first : first + chunk_words])) for first in range(0, len(words), chunk_words)]
    return [0, *np.cumsum(parts, dtype=np.int64).tolist()]


def intersection_counts(
    masks: UInt8[Tensor, "clients bytes"] | Sequence[UInt8[Tensor, " bytes"]],
) -> Int64[np.ndarray, "clients clients"]:
    """‖m_i ∧ m_j‖₁ of every pair, exactly.

    On the CPU by counting bits, which reads an eighth of a byte a parameter; elsewhere as a matrix product of
    slices of the unpacked masks (float32 holds the counts of a slice exactly).
    """
    rows = list(masks)
    if not rows:
        return np.zeros((0, 0), dtype=np.int64)
    if rows[0].device.type != "cpu":
        return _intersection_product(rows)
    words = [words_of(row) for row in rows]

    def count_chunk(first: int, last: int) -> np.ndarray:
        return _intersections(np.stack([row[first:last] for row in words]))

    chunk = max(64, min(CHUNK_WORDS, (1 << 21) // len(rows)))
    return sum(map_chunks(count_chunk, len(words[0]), chunk), np.zeros((len(rows), len(rows)), dtype=np.int64))


@numba.njit(nogil=True, cache=True)
def _intersections(words: np.ndarray) -> np.ndarray:
    clients, length = words.shape
    counts = np.zeros((clients, clients), dtype=np.int64)
    for i in range(clients):
        for j in range(i, clients):
            common = np.uint64(0)
            for k in range(length):
                common += popcount(words[i, k] & words[j, k])
            counts[i, j] = common
            counts[j, i] = common
    return counts


def _intersection_product(rows: Sequence[Tensor], slice_bytes: int = 1 << 17) -> np.ndarray:
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows[0].device)
    for first in range(0, rows[0].numel(), slice_bytes):
        bits = torch.stack([unpack_mask(row[first : first + slice_bytes]).float() for row in rows])
        total += bits @ bits.T
    return np.asarray(total.round().to(torch.int64).cpu().numpy(), dtype=np.int64)


def compress(vector: Shaped[Tensor, " length"], packed: UInt8[Tensor, " length/8"]) -> Shaped[Tensor, " selected"]:
    """The vector's elements at the mask's positions, ascending. float32 on the CPU takes the compiled loop."""
    if vector.device.type != "cpu" or vector.dtype != torch.float32:
        return vector[unpack_mask(packed)]
    source, words = vector.numpy(), words_of(packed)
    begins = prefix_counts(packed, CHUNK_WORDS)
    room = np.empty(begins[-1] + 1, dtype=np.float32)  # the loop may write one element past the last one

    def run(chunk: int) -> None:
        first = chunk * CHUNK_WORDS
        part = words[first : first + CHUNK_WORDS]
        if begins[chunk + 1] > begins[chunk]:
            _compress(source[64 * first :], part, room[begins[chunk] :], begins[chunk + 1] - begins[chunk])

    map_items(run, range(len(begins) - 1))
    return torch.from_numpy(room[: begins[-1]])


@numba.njit(nogil=True, cache=True)
def _compress(source: np.ndarray, words: np.ndarray, target: np.ndarray, length: int) -> None:
    """Writes `length` elements. Never beyond: threads write side by side."""
    filled = 0
    for index in range(words.size):
        word = words[index]
        base = 64 * index
        if filled + 64 < length:
            for bit in range(64):
                target[filled] = source[base + bit]
                filled += np.int64((word >> np.uint64(bit)) & np.uint64(1))
        else:
            for bit in range(64):
                if (word >> np.uint64(bit)) & np.uint64(1):
                    target[filled] = source[base + bit]
                    filled += 1


def expand_into(
    target: Shaped[Tensor, " length"], packed: UInt8[Tensor, " length/8"], values: Shaped[Tensor, " selected"]
) -> None:
    """Put values at the mask's positions of `target`, in place; the others stay. The inverse of `compress`."""
    if target.device.type != "cpu" or target.dtype != torch.float32 or values.dtype != torch.float32:
        target[unpack_mask(packed)] = values.to(target.dtype)
        return
    source, room, words = values.numpy(), target.numpy(), words_of(packed)
    begins = prefix_counts(packed, CHUNK_WORDS)
    if begins[-1] != source.size:
        raise ValueError(f"{source.size} values for a mask of {begins[-1]} positions")

    def run(chunk: int) -> None:
        first = chunk * CHUNK_WORDS
        if begins[chunk + 1] > begins[chunk]:
            part = words[first : first + CHUNK_WORDS]
            _expand(room[64 * first :], part, source[begins[chunk] : begins[chunk + 1]])

    map_items(run, range(len(begins) - 1))


@numba.njit(nogil=True, cache=True)
def _expand(target: np.ndarray, words: np.ndarray, source: np.ndarray) -> None:
    read = 0
    last = source.size - 1
    for index in range(words.size):
        word = words[index]
        base = 64 * index
        for bit in range(64):
            taken = (word >> np.uint64(bit)) & np.uint64(1)
            value = source[min(read, last)]
            target[base + bit] = value if taken else target[base + bit]
            read += np.int64(taken)
