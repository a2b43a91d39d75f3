"""Working on packed masks: count, compare, and move values between a vector and the positions of a mask.

Owns: the innermost loops over parameters, compiled for the CPU, in torch operations for any other device (and
held equal on the CPU by the tests). Does not own: what a mask means, what is summed (`sums.py`).

Masks are packed as `fedpurin.space.pack_mask` does, and as long as whole 64-bit words. The compiled loops over
values are free of branches: a mask bit is added to a read or write position instead of being tested, because a
test on random bits is mispredicted every other time. They move 32-bit patterns, so no value changes on its way,
and count in unsigned numbers, which numba indexes with without a test for negative ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from numba import njit
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.exchange.blocks import word_tensor
from fedpurin.exchange.parallel import is_parallel, map_chunks, map_items
from fedpurin.space import unpack_mask

CHUNK_WORDS = 1 << 12
"""Words of a mask (64 parameters each) that a thread takes at a time: 1 MiB of values, an L2 cache's worth."""
FULL_WORD = np.uint64(2**64 - 1)
_ONE = np.uint64(1)
_BITS = np.uint64(64)


@intrinsic
def popcount(typing_context: Any, word: Any) -> Any:
    """The number of set bits of a 64-bit word, one machine instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


def words_of(packed: UInt8[Tensor, " bytes"]) -> NDArray[np.uint64]:
    """A packed CPU mask as 64-bit words, without a copy where it is aligned."""
    return np.asarray(word_tensor(packed).numpy().view(np.uint64))


def count(packed: UInt8[Tensor, " bytes"]) -> int:
    """‖m‖₁."""
    if packed.device.type == "cpu":
        return int(count_words(words_of(packed)))
    return int(unpack_mask(packed).sum().item())


@njit(nogil=True, cache=True)
def count_words(words: NDArray[np.uint64]) -> int:
    """Set bits of all words."""
    total = np.uint64(0)
    for word in words:
        total += popcount(word)
    return total  # type: ignore[return-value]


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


@njit(nogil=True, cache=True)
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
    packed: UInt8[Tensor, " length/8"],
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


@njit(nogil=True, cache=True)
def _compress(source: NDArray[np.uint32], words: NDArray[np.uint64], target: NDArray[np.uint32]) -> None:
    """Fill `target`, never past its end: threads write side by side."""
    filled, size = np.uint64(0), np.uint64(target.size)
    for index in range(words.size):
        filled = compress_word(source, _BITS * np.uint64(index), words[index], target, filled, size)


@njit(nogil=True, cache=True)
def compress_word(source, base, word, target, filled, size):  # type: ignore[no-untyped-def]
    """Append the elements of one word's positions; returns how many are filled now. Writes nothing from `size` on."""
    if word == 0:
        return filled
    if filled + _BITS < size:
        for bit in range(_BITS):
            target[filled] = source[base + np.uint64(bit)]
            filled += word & _ONE
            word >>= _ONE
    else:
        for bit in range(_BITS):
            if word & _ONE:
                target[filled] = source[base + np.uint64(bit)]
                filled += _ONE
            word >>= _ONE
    return filled


def expand_into(
    target: Shaped[Tensor, " length"], packed: UInt8[Tensor, " length/8"], values: Shaped[Tensor, " selected"]
) -> None:
    """Put values at the mask's positions of `target`, in place; the others stay. The inverse of `compress`."""
    if target.device.type != "cpu" or target.itemsize != 4:
        target[unpack_mask(packed)] = values
        return
    source = values.view(torch.int32).numpy().view(np.uint32)
    room, words = target.view(torch.int32).numpy().view(np.uint32), words_of(packed)
    begins, chunk = _prefix(words)
    if begins[-1] != source.size:
        raise ValueError(f"{source.size} values for a mask of {begins[-1]} positions")

    def run(first: int, last: int) -> None:
        part = source[begins[first // chunk] : begins[first // chunk + 1]]
        if part.size:
            _expand(part, words[first:last], room[64 * first : 64 * last])

    map_chunks(run, len(words), chunk)


@njit(nogil=True, cache=True)
def _expand(source: NDArray[np.uint32], words: NDArray[np.uint64], target: NDArray[np.uint32]) -> None:
    lane = np.empty(64, dtype=np.uint32)
    read, size = np.uint64(0), np.uint64(source.size)
    for index in range(words.size):
        word, base = words[index], _BITS * np.uint64(index)
        if word == 0:
            continue
        read = read_word(source, word, lane, read, size)
        for bit in range(_BITS):
            keep = np.uint32(((word >> bit) & _ONE) - _ONE)
            target[base + bit] = (lane[bit] & ~keep) | (target[base + bit] & keep)


@njit(nogil=True, cache=True)
def read_word(source, word, lane, read, size):  # type: ignore[no-untyped-def]
    """Put the next values into the lanes of one word's positions; other lanes get anything. Returns the next place."""
    if read + _BITS < size:
        for bit in range(_BITS):
            lane[bit] = source[read]
            read += word & _ONE
            word >>= _ONE
    else:
        for bit in range(_BITS):
            if word & _ONE:
                lane[bit] = source[read]
                read += _ONE
            word >>= _ONE
    return read


def _prefix(words: NDArray[np.uint64]) -> tuple[list[int], int]:
    """Set bits before each chunk and in all, and a chunk's words: one chunk where no other thread could help."""
    chunk = CHUNK_WORDS if is_parallel() else max(len(words), 1)
    parts = map_items(lambda first: int(count_words(words[first : first + chunk])), range(0, len(words), chunk))
    return [0, *np.cumsum(parts, dtype=np.int64).tolist()], chunk
