"""Working on packed masks: count, compare, and move values between a vector and the positions of a mask.

Owns: whole masks and vectors. Does not own: what a mask means, what is summed (`sums.py`).

Masks are packed as `fedpurin.space.pack_mask` does, and as long as whole 64-bit words; they are counted on the CPU, where
one from a GPU is copied to, an eighth of a byte a parameter. Values are moved where they lie, float32 on the CPU by
compiled loops. These count unsigned: numba tests signed indices for negative ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.compiled import njit
from fedpurin.parallel import map_chunks
from fedpurin.space import unpack_mask

CHUNK_WORDS = 1 << 14
"""Words of a mask (64 parameters each) that a thread compares at a time."""
FULL_WORD = np.uint64(2**64 - 1)
_ONE = np.uint64(1)
_BITS = np.uint64(64)


@intrinsic
def popcount(typing_context: Any, word: Any) -> Any:
    """`np.bitwise_count` of a 64-bit word in compiled code, where numba 0.68 does not know that function."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@njit(inline="always")
def lowest(word: np.uint64) -> np.uint64:
    """The place of a word's lowest set bit; the loops over set bits then clear it: `word &= word - 1`."""
    return popcount((word & (~word + _ONE)) - _ONE)  # type: ignore[no-any-return]


def words_of(packed: UInt8[Tensor, " bytes"]) -> NDArray[np.uint64]:
    """A packed mask as 64-bit words on the CPU, without a copy where it is there and aligned."""
    aligned = packed if packed.storage_offset() % 8 == 0 and packed.is_contiguous() else packed.clone()
    return aligned.cpu().numpy().view(np.uint64)


def count(packed: UInt8[Tensor, " bytes"]) -> int:
    """‖m‖₁."""
    return int(count_words(words_of(packed)))


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
    """‖m_i ∧ m_j‖₁ of every pair, exactly."""
    rows = list(masks)
    if not rows:
        return np.zeros((0, 0), dtype=np.int64)
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


def compress(vector: Shaped[Tensor, " length"], packed: UInt8[Tensor, " packed"]) -> Shaped[Tensor, " selected"]:
    """The vector's elements at the mask's positions, ascending."""
    if vector.device.type != "cpu" or vector.dtype not in (torch.float32, torch.int16):
        return torch.masked_select(vector, unpack_mask(packed))
    words = words_of(packed)
    selected = torch.empty(count_words(words), dtype=vector.dtype)
    _compress(vector.numpy(), words, selected.numpy())
    return selected


@njit()
def _compress(source: NDArray[Any], words: NDArray[np.uint64], target: NDArray[Any]) -> None:
    filled = np.uint64(0)
    for index in range(words.size):
        word, base = words[index], _BITS * np.uint64(index)
        if word == FULL_WORD:  # of dense messages all are
            for bit in range(_BITS):
                target[filled + bit] = source[base + bit]
            filled += _BITS
            continue
        while word:
            target[filled] = source[base + lowest(word)]
            filled += _ONE
            word &= word - _ONE


def expand_into(
    target: Shaped[Tensor, " length"], packed: UInt8[Tensor, " packed"], values: Shaped[Tensor, " selected"]
) -> None:
    """Put values at the mask's positions of `target`, in place; the others stay. The inverse of `compress`."""
    if target.device.type != "cpu" or target.dtype is not torch.float32:
        target[unpack_mask(packed)] = values
        return
    words = words_of(packed)
    if values.numel() != count_words(words):
        raise ValueError(f"{values.numel()} values for a mask of {count_words(words)} positions")
    _expand(values.numpy(), words, target.numpy())


@njit()
def _expand(source: NDArray[np.float32], words: NDArray[np.uint64], target: NDArray[np.float32]) -> None:
    read = np.uint64(0)
    for index in range(words.size):
        word, base = words[index], _BITS * np.uint64(index)
        if word == FULL_WORD:
            for bit in range(_BITS):
                target[base + bit] = source[read + bit]
            read += _BITS
            continue
        while word:
            target[base + lowest(word)] = source[read]
            read += _ONE
            word &= word - _ONE
