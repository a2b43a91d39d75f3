"""Pieces of a concave value curve that lie nowhere below it: what the solver sees of a window of counts.

Owns which borders of a curve are kept (sharp around given counts, coarser away from them) and the two tangents that
replace what lies between. At every kept border the pieces are exact; their maximum is an upper bound of the program's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedpurin.selection.reduction.curve import Integers, ValueCurve
from fedpurin.selection.reduction.instance import Items


def cut_window(
    curve: ValueCurve, low: int, high: int, centre: int, anchors: Sequence[int], max_intervals: int
) -> Items:
    """Cover the counts from `low` to `high` (borders of the curve) with about 2 · max_intervals pieces at most.

    They are finest around `centre`, and exact at the anchors.
    """
    if low >= high:
        return Items(np.zeros(0), np.zeros(0))
    borders = _choose_borders(curve, low, high, centre, anchors, max_intervals)
    first, last = curve.top[borders[:-1]], curve.bottom[borders[1:] - 1]
    size = np.diff(curve.num[borders]).astype(np.float64)
    gain = np.diff(curve.value[borders])
    # slopes `first` for `corner` counts, then `last`: the tangents at both ends, meeting at the corner
    spread = first - last
    is_bent = spread > 0
    corner = np.where(is_bent, (gain - last * size) / np.where(is_bent, spread, 1.0), size)
    corner = np.clip(corner, 0.0, size)
    score = np.stack((first, last), axis=1).ravel()
    width = np.stack((corner, size - corner), axis=1).ravel()
    return Items(score[width > 0], width[width > 0])


def _choose_borders(
    curve: ValueCurve, low: int, high: int, centre: int, anchors: Sequence[int], max_intervals: int
) -> Integers:
    """Indices of the borders to keep, ends included: all of them, or a ladder from the centre to both ends."""
    first, last = np.searchsorted(curve.num, (low, high))
    if last - first <= max_intervals:
        return np.arange(first, last + 1)
    centre = min(max(centre, low), high)
    wanted = [centre, *(anchor for anchor in anchors if low < anchor < high)]
    rungs = max(max_intervals // 2, 1)
    for reach in (low - centre, high - centre):
        # Geometric steps: gain falls off like the square of the distance, and a rung's error is a fixed share of it.
        ratio = max(max(abs(reach), 1) ** (1.0 / rungs), 2.0)
        wanted += [centre + round(reach / ratio**rung) for rung in range(rungs)]
    return np.unique(np.clip(np.searchsorted(curve.num, wanted), first, last))
