"""The value curve of one tensor: V(k), the sum of its k largest scores, without sorting them.

A curve is a row of steps, descending. All scores of a step lie between `bottom` and `top`; how many there are and
what they add up to is known exactly, so V is exact at every border between steps, and in between it is enclosed:
concave, so above the chord, and under the two lines that leave the borders with slopes `top` and `bottom`. A step
whose scores are all equal (`top == bottom`) is exact inside as well. `scan.py` builds curves from histograms and
splits a step into exact ones where a program needs to see inside.

Owns this arithmetic. Does not own the scores, nor which steps are worth splitting.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ValueCurve:
    """Steps in descending order of score; null scores are counted apart."""

    count: Integers
    """Scores in each step, at least 1."""
    total: Floats
    """Their sum."""
    top: Floats
    bottom: Floats
    num_null: int = 0
    num: Integers = field(init=False)
    """k at the borders: scores above each step, and all of them at the end."""
    value: Floats = field(init=False)
    """V at the borders."""
    _falling: Floats = field(init=False, repr=False)
    """−bottom, which is what a binary search needs: ascending."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_falling", -self.bottom)
        object.__setattr__(self, "num", np.concatenate(([0], np.cumsum(self.count))))
        object.__setattr__(self, "value", np.concatenate(([0.0], np.cumsum(self.total))))

    @property
    def num_steps(self) -> int:
        return len(self.count)

    @property
    def num_scores(self) -> int:
        """Scores that are not null."""
        return int(self.num[-1])

    @classmethod
    def from_values(cls, values: NDArray[np.float32]) -> ValueCurve:
        """Sort the scores of a small tensor: every step is exact."""
        ordered = np.sort(values)[::-1]
        ordered = ordered[: np.count_nonzero(ordered > 0)]
        is_first = np.ones(len(ordered), dtype=bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        starts = np.flatnonzero(is_first)
        distinct = ordered[starts].astype(np.float64)
        count = np.diff(np.append(starts, len(ordered))).astype(np.int64)
        return cls(count, count * distinct, distinct, distinct, len(values) - len(ordered))

    @classmethod
    def from_histogram(cls, counts: Integers, places: Integers) -> ValueCurve:
        """Turn a histogram over bins (`kernels.histogram_chunk`) into steps, one a bin. Bin 0 must be empty.

        A bin's scores have one exponent, so their sum is an integer multiple of its unit in the last place: below
        2^53 of them for 2^29 scores, hence exact in float64 and the same on every device and number of threads.
        """
        bins = np.flatnonzero(counts != 0)[::-1]  # of booleans: several times as fast
        bottom, unit = _float_of(bins << 16), _unit_of(bins)
        count = counts[bins]
        total = count * bottom + places[bins] * unit
        top = _float_of((bins << 16) | 0xFFFF)
        alone = count == 1  # then the sum is the score
        return cls(count, total, np.where(alone, total, top), np.where(alone, total, bottom))

    def replace_steps(self, steps: Integers, splits: list[ValueCurve]) -> ValueCurve:
        """Put finer steps in the place of coarse ones. `steps` is ascending, one split each."""
        parts, end, num_null = [], 0, self.num_null
        for step, split in zip(steps, splits, strict=True):
            parts += [self._part(end, int(step)), (split.count, split.total, split.top, split.bottom)]
            num_null += split.num_null
            end = int(step) + 1
        parts.append(self._part(end, self.num_steps))
        count, total, top, bottom = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return ValueCurve(count, total, top, bottom, num_null)

    def _part(self, start: int, stop: int) -> tuple[Integers, Floats, Floats, Floats]:
        part = slice(start, stop)
        return self.count[part], self.total[part], self.top[part], self.bottom[part]

    def step_at(self, k: int) -> int:
        """The step that holds the k-th largest score, 1 ≤ k ≤ num_scores."""
        return int(np.searchsorted(self.num, k)) - 1

    def step_above(self, score: float) -> int:
        """The first step whose scores are not all above `score`; `num_steps` if there is none."""
        return int(np.searchsorted(self._falling, -score))

    def is_exact(self, step: int) -> bool:
        return bool(self.top[step] == self.bottom[step])

    def value_at(self, k: int) -> float:
        """V(k), or inside a coarse step its chord, which V is not below."""
        if k == 0:
            return 0.0
        step = self.step_at(k)
        if k == self.num[step + 1]:
            return float(self.value[step + 1])
        slope = self.total[step] / self.count[step]
        return float(self.value[step] + (k - self.num[step]) * slope)


def bins_of(scores: Floats) -> Integers:
    """The bin of each score: the upper half of its float32 bit pattern."""
    return (scores.astype(np.float32).view(np.uint32) >> 16).astype(np.int64)


def curve_of_bin(bin_index: int, counts: NDArray[np.integer]) -> ValueCurve:
    """The exact steps inside one bin, from the count of every place in it."""
    places = np.flatnonzero(counts != 0)[::-1]  # of booleans: several times as fast
    num_null = 0
    if bin_index == 0 and len(places) and places[-1] == 0:
        places, num_null = places[:-1], int(counts[0])
    score = _float_of((bin_index << 16) | places)
    count = counts[places].astype(np.int64)
    return ValueCurve(count, count * score, score, score, num_null)


def _float_of(patterns: NDArray[np.integer]) -> Floats:
    return patterns.astype(np.uint32).view(np.float32).astype(np.float64)


def _unit_of(bins: Integers) -> Floats:
    """One unit in the last place of the scores in each bin."""
    exponent = np.maximum(bins >> 7, 1)
    unit: Floats = np.exp2((exponent - 150).astype(np.float64))
    return unit
