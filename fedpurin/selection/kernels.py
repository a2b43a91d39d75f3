"""Single-threaded numba kernels of the selection, and the thread pool that runs them over chunks.

Owns the loops that touch every parameter on a CPU. Each kernel releases the interpreter lock, writes only its
own chunk and uses no fast-math, so results depend neither on the number of threads nor on the vector width.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

_HALF = np.float32(0.5)
_FLOAT16_MIN_NORMAL = np.float32(2.0**-14)
_FLOAT16_OVERFLOW = np.float32(65520.0)  # from here on, rounding to float16 gives infinity


def map_chunks(work: Callable[[int, int], None], length: int, chunk: int) -> None:
    """Call `work(start, stop)` for every chunk of `range(length)`, on as many threads as torch uses."""
    starts = range(0, length, chunk)
    threads = min(torch.get_num_threads(), len(starts))
    if threads <= 1:
        for start in starts:
            work(start, min(start + chunk, length))
        return
    for result in _pool(threads).map(lambda start: work(start, min(start + chunk, length)), starts):
        assert result is None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="selection")


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True, inline="always")
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


@njit(nogil=True, cache=True, inline="always")
def _round_bfloat16(value: np.float32) -> np.float32:
    """Round to the nearest bfloat16, ties to even; NaN stays NaN."""
    if value != value:
        return value
    bits = np.float32(value).view(np.uint32)
    bits = np.uint32((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000))
    return np.float32(bits.view(np.float32))
