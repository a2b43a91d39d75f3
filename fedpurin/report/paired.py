"""Paired comparison of two groups: bootstrap intervals over seeds and, within them, clients.

Owns: which results are pairs (same seed, same client: same data and initial weights) and the interval of their mean
difference. Does not own: what is done with it (parts/overview.py sets bold by it).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedpurin.report.comparison import Group
from fedpurin.report.read import Run

RESAMPLES = 2000
COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """Mean difference and its percentile interval; NaN where there are no pairs."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def difference(group: Group, other: Group) -> Interval:
    """The final headline value of `group` minus that of `other`, over the seeds and clients that both have."""
    theirs = {run.seed: by_client(run) for run in other.runs}
    gains: dict[int, list[float]] = defaultdict(list)
    for run in group.runs:
        for client, value in by_client(run).items():
            if client in theirs.get(run.seed, {}):
                gains[run.seed].append(value - theirs[run.seed][client])
    return bootstrap(gains)


def bootstrap(gains: Mapping[int, list[float]]) -> Interval:
    """Resample seeds, then clients of each drawn seed. The draws are fixed: the same runs give the same page."""
    several = [np.array(values) for values in gains.values() if len(values)]
    if not several:
        return Interval(math.nan, math.nan, math.nan, 0)
    counts = np.array([len(values) for values in several])
    table = np.zeros((len(several), counts.max()))
    for row, values in zip(table, several, strict=True):
        row[: len(values)] = values
    draw = np.random.default_rng(0)
    sums, sizes = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for _ in several:
        seeds = draw.integers(len(several), size=RESAMPLES)
        # as many clients as the drawn seed has; the places past them weigh nothing
        places = (draw.random((RESAMPLES, table.shape[1])) * counts[seeds, None]).astype(int)
        counted = np.arange(table.shape[1]) < counts[seeds, None]
        sums += (table[seeds[:, None], places] * counted).sum(axis=1)
        sizes += counts[seeds]
    tail = 100 * (1 - COVERAGE) / 2
    low, high = np.percentile(sums / sizes, (tail, 100 - tail))
    return Interval(float(np.concatenate(several).mean()), float(low), float(high), int(counts.sum()))


def by_client(run: Run) -> dict[int, float]:
    """The final headline value of each client that has one."""
    values = run.final.get(run.judged_by.column, ())
    return {
        int(client_id): float(value)
        for client_id, value in zip(run.client_ids, values, strict=False)
        if math.isfinite(value)
    }
