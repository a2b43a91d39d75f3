"""Working on packed masks: count, compare, and move values between a vector and the positions of a mask.

Owns: whole masks and vectors, compiled for the CPU, in torch operations for any other device (and held equal on the
CPU by the tests). Does not own: the step from word to word (`lanes.py`), what a mask means, what is summed (`sums.py`).

Masks are packed as `fedpurin.space.pack_mask` does, and as long as whole 64-bit words. Values are moved as 32-bit
patterns, so none changes on its way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.compiled import njit
from fedpurin.exchange.wire.blocks import word_tensor
from fedpurin.exchange.wire.lanes import compress_word, popcount, spread_word
from fedpurin.parallel import is_parallel, map_chunks
from fedpurin.space import unpack_mask

CHUNK_WORDS = 1 << 14
"""Words of a mask (64 parameters each) that a thread takes at a time: less is done before a thread has woken up."""
FULL_WORD = np.uint64(2**64 - 1)
_ONE = np.uint64(1)
_BITS = np.uint64(64)


def words_of(packed: UInt8[Tensor, " bytes"]) -> NDArray[np.uint64]:
    """A packed CPU mask as 64-bit words, without a copy where it is aligned."""
    return np.asarray(word_tensor(packed).numpy().view(np.uint64))


def count(packed: UInt8[Tensor, " bytes"]) -> int:
    """‖m‖₁."""
    if packed.device.type == "cpu":
        return int(count_words(words_of(packed)))
    return int(unpack_mask(packed).sum().item())


@njit()
def count_words(words: NDArray[np.uint64]) -> int:
    """Set bits of all words."""
    total = 0
    for index in range(words.size):
        total += int(popcount(words[index]))
    return total


def intersection_counts(
    masks: UInt8[Tensor, "clients bytes"] | Sequence[UInt8[Tensor, " bytes"]],
) -> Int64[NDArray[np.int64], "clients clients"]:
    """‖m_i ∧ m_j‖₁ of every pair, exactly.

    On the CPU by counting bits, which reads an eighth of a byte a parameter; elsewhere as a matrix product of
    slices of the unpacked masks (float32 holds the counts of a slice exactly).
    """
    rows = list(masks)
    if not rows:
        return np.zeros((0, 0), dtype=np.int64)
    if rows[0].device.type != "cpu":
        return intersection_product(rows)
    words = [words_of(row) for row in rows]

    def count_chunk(first: int, last: int) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = _intersections(np.stack([row[first:last] for row in words]))
        return counts

    chunk = max(64, min(CHUNK_WORDS, (1 << 21) // len(rows)))
    total = np.zeros((len(rows), len(rows)), dtype=np.int64)
    for part in map_chunks(count_chunk, len(words[0]), chunk):
        total += part
    return total


@njit()
def _intersections(words: NDArray[np.uint64]) -> NDArray[np.int64]:
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


def intersection_product(rows: Sequence[Tensor], slice_bytes: int = 1 << 17) -> NDArray[np.int64]:
    """`intersection_counts` as a matrix product."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows[0].device)
    for first in range(0, rows[0].numel(), slice_bytes):
        bits = torch.stack([unpack_mask(row[first : first + slice_bytes]).float() for row in rows])
        total += bits @ bits.T
    return np.asarray(total.round().to(torch.int64).cpu().numpy(), dtype=np.int64)


def compress(
    vector: Shaped[Tensor, " length"],
    packed: UInt8[Tensor, " packed"],
    out: Shaped[Tensor, " selected"] | None = None,
) -> Shaped[Tensor, " selected"]:
    """The vector's elements at the mask's positions, ascending; written into `out` if there is one."""
    if vector.device.type != "cpu" or vector.itemsize != 4:
        return torch.masked_select(vector, unpack_mask(packed), out=out)
    source, words = vector.view(torch.int32).numpy().view(np.uint32), words_of(packed)
    begins, chunk = _prefix(words)
    if out is None:
        out = torch.empty(begins[-1], dtype=vector.dtype)
    target = out.view(torch.int32).numpy().view(np.uint32)

    def run(first: int, last: int) -> None:
        part = target[begins[first // chunk] : begins[first // chunk + 1]]
        if part.size:
            _compress(source[64 * first : 64 * last], words[first:last], part)

    map_chunks(run, len(words), chunk)
    return out


@njit()
def _compress(source: NDArray[np.uint32], words: NDArray[np.uint64], target: NDArray[np.uint32]) -> None:
    """Fill `target`, never past its end: threads write side by side."""
    filled, size = np.uint64(0), np.uint64(target.size)
    for index in range(words.size):
        base = _BITS * np.uint64(index)
        if words[index] == FULL_WORD and filled + _BITS <= size:  # of dense messages all are
            for bit in range(_BITS):
                target[filled + bit] = source[base + bit]
            filled += _BITS
        else:
            filled = compress_word(source, base, words[index], target, filled, size)


def expand_into(
    target: Shaped[Tensor, " length"], packed: UInt8[Tensor, " packed"], values: Shaped[Tensor, " selected"]
) -> None:
    """Put values at the mask's positions of `target`, in place; the others stay. The inverse of `compress`."""
    if target.device.type != "cpu" or target.itemsize != 4:
        target[unpack_mask(packed)] = values
        return
    source = values.view(torch.int32).numpy().view(np.uint32)
    out, words = target.view(torch.int32).numpy().view(np.uint32), words_of(packed)
    begins, chunk = _prefix(words)
    if begins[-1] != source.size:
        raise ValueError(f"{source.size} values for a mask of {begins[-1]} positions")

    def run(first: int, last: int) -> None:
        part = source[begins[first // chunk] : begins[first // chunk + 1]]
        if part.size:
            _expand(part, words[first:last], out[64 * first : 64 * last])

    map_chunks(run, len(words), chunk)


@njit()
def _expand(source: NDArray[np.uint32], words: NDArray[np.uint64], target: NDArray[np.uint32]) -> None:
    lane = np.empty(64, dtype=np.uint32)
    read, size = np.uint64(0), np.uint64(source.size)
    for index in range(words.size):
        word, base = words[index], _BITS * np.uint64(index)
        if word == 0:
            continue
        if word == FULL_WORD and read + _BITS <= size:
            for bit in range(_BITS):
                target[base + bit] = source[read + bit]
            read += _BITS
            continue
        read = spread_word(source, read, size, word, lane, np.uint64(0))
        for bit in range(_BITS):
            keep = np.uint32(((word >> bit) & _ONE) - _ONE)
            target[base + bit] = (lane[bit] & ~keep) | (target[base + bit] & keep)


def _prefix(words: NDArray[np.uint64]) -> tuple[list[int], int]:
    """Set bits before each chunk and in all, and a chunk's words: one chunk where no other thread could help."""
    chunk = CHUNK_WORDS if is_parallel() else max(len(words), 1)
    parts = [int(count_words(words[first : first + chunk])) for first in range(0, len(words), chunk)]
    return [0, *np.cumsum(parts, dtype=np.int64).tolist()], chunk
