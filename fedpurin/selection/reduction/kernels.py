"""Single-threaded numba kernels of the selection, and the chunks that threads take (`fedpurin/parallel.py`).

Owns the loops that touch every parameter on a CPU. Each kernel releases the interpreter lock, writes only its
own chunk and uses no fast-math, so results depend neither on the number of threads nor on the vector width.

Positive float32 numbers sort like their bit patterns read as integers, so a score's upper 16 bits are its bin
(sign, exponent and 7 bits of mantissa: bins are under 0.8 % wide) and its lower 16 bits its place in the bin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedpurin.compiled import njit

_HALF = np.float32(0.5)
_FLOAT16_MIN_NORMAL = np.float32(2.0**-14)
_FLOAT16_OVERFLOW = np.float32(65520.0)  # from here on, rounding to float16 gives infinity


NUM_BINS = 1 << 16
_LOW_BITS = 40  # a histogram word is a count above these bits and a sum of places in the bin below them
CHUNK = 1 << 20  # elements: 2^20 places below 2^16 add up to less than 2^40, so a word cannot overflow


def chunks(length: int) -> list[tuple[int, int]]:
    """`range(length)` cut into pieces of CHUNK elements: (start, stop)."""
    return [(start, min(start + CHUNK, length)) for start in range(0, length, CHUNK)]


@njit()
def score_chunk(
    weights: NDArray[np.float32],
    slopes: NDArray[np.float32],
    scores: NDArray[np.float32],
    dropped_bits: int,
    is_second: bool,
    cutoff: np.float32,
) -> None:
    """Perturbation scores of one chunk; `dropped_bits` is 13 for float16, 16 for bfloat16, 0 for float32."""
    for index in range(len(weights)):
        slope = slopes[index]
        if dropped_bits == 13:
            slope = _round_float16(slope)
        elif dropped_bits == 16:
            slope = _round_bfloat16(slope)
        product = np.float32(slope * weights[index])
        score = product
        if is_second:
            score = np.float32(np.float32(_HALF * np.float32(product * product)) - product)
        score = abs(score)
        scores[index] = np.float32(0.0) if score <= cutoff else score


@njit(inline="always")
def _round_float16(value: np.float32) -> np.float32:
    """Round to the nearest float16, ties to even, as IEEE 754 says; NaN stays NaN."""
    magnitude = abs(value)
    if magnitude < _FLOAT16_MIN_NORMAL:
        # The spacing of float32 in [0.5, 1) is that of float16's subnormals, 2^-24: the addition rounds.
        rounded = np.float32(np.float32(magnitude + _HALF) - _HALF)
    elif magnitude < _FLOAT16_OVERFLOW:
        bits = np.float32(magnitude).view(np.uint32)
        bits = np.uint32((bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000))
        rounded = bits.view(np.float32)
    else:
        rounded = magnitude * np.float32(np.inf)
    return np.float32(np.copysign(rounded, value))


@njit(inline="always")
def _round_bfloat16(value: np.float32) -> np.float32:
    """Round to the nearest bfloat16, ties to even; NaN stays NaN."""
    if value != value:
        return value
    bits = np.float32(value).view(np.uint32)
    bits = np.uint32((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000))
    return np.float32(bits.view(np.float32))


@njit()
def histogram_chunk(bits: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the scores in each bin, and add up their places in it: two tables of NUM_BINS."""
    words = np.zeros(NUM_BINS, dtype=np.uint64)
    one = np.uint64(1 << _LOW_BITS)
    for index in range(len(bits)):
        # One word, one read-modify-write an element: this loop is bound by it.
        words[bits[index] >> np.uint32(16)] += one + np.uint64(bits[index] & np.uint32(0xFFFF))
    counts, places = np.empty(NUM_BINS, dtype=np.int64), np.empty(NUM_BINS, dtype=np.int64)
    for index in range(NUM_BINS):
        counts[index] = np.int64(words[index] >> np.uint64(_LOW_BITS))
        places[index] = np.int64(words[index] & np.uint64((1 << _LOW_BITS) - 1))
    return counts, places


@njit()
def refine_chunk(bits: NDArray[np.uint32], row_of_bin: NDArray[np.int16], num_rows: int) -> NDArray[np.int32]:
    """Count every place of the bins that have a row (`row_of_bin` ≥ 0): one row of NUM_BINS places a bin."""
    counts = np.zeros((num_rows, NUM_BINS), dtype=np.int32)
    for index in range(len(bits)):
        row = row_of_bin[bits[index] >> np.uint32(16)]
        if row >= 0:
            counts[row, bits[index] & np.uint32(0xFFFF)] += 1
    return counts


@njit()
def end_of_ties(bits: NDArray[np.int32], threshold: np.int32, quota: int) -> int:
    """The index after the `quota`-th element that equals the threshold."""
    block, seen = 4096, 0
    for start in range(0, len(bits), block):
        stop = min(start + block, len(bits))
        here = 0
        for index in range(start, stop):
            here += bits[index] == threshold
        if seen + here >= quota:
            for index in range(start, stop):
                seen += bits[index] == threshold
                if seen == quota:
                    return index + 1
        seen += here
    return len(bits)


@njit()
def write_mask_chunk(
    bits: NDArray[np.int32],
    threshold: np.int32,
    tie_end: int,
    mask: NDArray[np.uint8],
    words: NDArray[np.uint64],
    packed: NDArray[np.uint8],
) -> None:
    """Select scores above the threshold, and those equal to it before `tie_end`; write both forms of the mask.

    `words` is `mask` seen eight bytes at a time. The chunk starts at a multiple of eight; where its length is not
    one, what lies behind it in `mask` is padding and stays 0.
    """
    block = 8192  # the mask's block is still in the first-level cache when it is packed
    length = len(bits)
    for start in range(0, length, block):
        stop = min(start + block, length)
        border = min(max(tie_end, start), stop)
        for index in range(start, border):
            mask[index] = bits[index] >= threshold
        for index in range(border, stop):
            mask[index] = bits[index] > threshold
        for index in range(start // 8, (stop + 7) // 8):
            # Multiplying moves the lowest bit of byte i to bit 56 + i.
            packed[index] = (words[index] * np.uint64(0x0102040810204080)) >> np.uint64(56)
