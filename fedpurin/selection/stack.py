"""`layerwise` for many small clients at once: their scores as one stack, their programs side by side in one statement.

A small client's solve is nearly all fixed cost: curves, reductions and a call of the solver. A stack pays it once. One
compiled loop over every tensor's scores finds what `scan.py` and the passes find: the last score that may be
selected (docs/method.md, step 3), how many exceed it, how many equal it, what the selection is worth. Since the tensors
are not coupled, the price of a selection is zero and the solver is left with the scores equal to that last one.

Owns: the stack's kernels, the masks and certificates that `CardinalityProgram.solve` would give. Does not own the
statement (`cardinality.py`), nor the programs that couple tensors.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.compiled import njit
from fedpurin.selection.answer import name_status
from fedpurin.selection.cardinality import CardinalityProgram
from fedpurin.selection.certificate import Certificate, Selection
from fedpurin.selection.reduction.kernels import NUM_BINS, end_of_ties, write_mask_chunk
from fedpurin.selection.reduction.scan import SORTED_SIZE
from fedpurin.space import Layout

_Integers = NDArray[np.int64]
_Columns = tuple[_Integers, NDArray[np.float32], _Integers, _Integers, _Integers, NDArray[np.float64]]
"""Of one tensor: count, last, above, equal, null and value of `_Ranked`, by client."""


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Of each client and tensor, [clients, tensors]: where selecting by score ends."""

    count: NDArray[np.int64]
    """Scores to select."""
    last: NDArray[np.float32]
    """The smallest of them; 0 where there is none."""
    above: NDArray[np.int64]
    """Scores above it."""
    equal: NDArray[np.int64]
    """Scores that equal it."""
    null: NDArray[np.int64]
    value: NDArray[np.float64]
    """What the selection is worth."""

    @classmethod
    def of(cls, layout: Layout, scores: NDArray[np.float32], most: NDArray[np.int64], below: float) -> _Ranked:
        shape = len(scores), len(layout)
        integers = [np.zeros(shape, dtype=np.int64) for _ in range(4)]
        count, above, equal, null = integers
        last, value = np.zeros(shape, dtype=np.float32), np.zeros(shape)
        for index, segment in enumerate(layout):
            rows = scores[:, segment.slice]
            columns = (
                count[:, index],
                last[:, index],
                above[:, index],
                equal[:, index],
                null[:, index],
                value[:, index],
            )
            if segment.size > SORTED_SIZE:
                _rank_in_bins(rows, rows.view(np.uint32), int(most[index]), below, columns)
            else:
                _rank_sorted(np.sort(rows, axis=1), int(most[index]), below, columns)
        return cls(count, last, above, equal, null, value)

    def masks(self, layout: Layout, scores: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Each client's mask, a byte a parameter, and packed."""
        mask = np.zeros(scores.shape, dtype=np.uint8)
        packed = np.zeros((len(scores), layout.length // 8), dtype=np.uint8)
        offsets = np.array([segment.offset for segment in layout])
        ends = np.array([segment.offset + segment.size for segment in layout])
        _write_masks(
            scores.view(np.int32),
            offsets,
            ends,
            self.last.view(np.int32),
            self.count,
            self.above,
            self.equal,
            mask,
            mask.view(np.uint64),
            packed,
        )
        return mask, packed


def solve_stack(
    program: CardinalityProgram, layout: Layout, scores: Float32[Tensor, "clients length"]
) -> list[Selection | None]:
    """Solve every row's `layerwise` program by one call of the solver; see `Selector.solve_many`.

    None in the place of a row that has to be solved alone: the solver, or its time limit, left it short of its best, or
    some score is not valid, which solving alone names.
    """
    start = time.perf_counter()
    rows = scores.detach().cpu().contiguous().numpy()
    lowest, highest = rows.min(initial=0.0), rows.max(initial=0.0)  # NaN where any is
    if not (lowest >= 0.0 and highest < np.inf):
        return [None] * len(rows)
    ranked = _Ranked.of(layout, rows, np.array(program.ceiling), float(np.float32(program.program.open_below)))
    best, outcome = program.solve_ties(
        ranked.last.astype(np.float64),
        ranked.equal,
        ranked.count - ranked.above,
        start + len(rows) * program.program.time_limit,
    )
    mask, packed = ranked.masks(layout, rows)
    total = (time.perf_counter() - start) / len(rows)
    building, solving = outcome.building_seconds / len(rows), outcome.solver_seconds / len(rows)
    objective = [math.fsum(values) for values in ranked.value.tolist()]
    selected, null, core = ranked.count.sum(axis=1), ranked.null.sum(axis=1), np.count_nonzero(ranked.equal, axis=1)
    return [
        Selection(
            torch.from_numpy(packed[row]).to(scores.device),
            torch.from_numpy(mask[row].view(np.bool_)).to(scores.device),
            Certificate(
                status=name_status(0.0, program.program.gap_tolerance, True),
                objective=objective[row],
                upper_bound=objective[row],
                gap=0.0,
                num_selected=int(selected[row]),
                num_null=int(null[row]),
                core_size=int(core[row]),
                reduction_seconds=total - building - solving,
                building_seconds=building,
                solver_seconds=solving,
                total_seconds=total,
            ),
        )
        if best[row]
        else None
        for row in range(len(rows))
    ]


@njit()
def _rank_sorted(
    rows: NDArray[np.float32],
    most: int,
    below: float,
    columns: _Columns,
) -> None:
    """Columns of `_Ranked` for one tensor, from each client's scores in ascending order."""
    count, last, above, equal, null, value = columns
    size = rows.shape[1]
    for row in range(rows.shape[0]):
        null[row] = np.searchsorted(rows[row], np.float32(0), side="right")
        num_scores = size - null[row]
        taken = min(most, num_scores)
        if 0 < taken < num_scores and rows[row, size - taken] <= below:
            taken = num_scores
        count[row] = taken
        if taken > 0:
            last[row], above[row], equal[row], value[row] = _end(rows[row], taken, 0.0)


@njit()
def _rank_in_bins(
    rows: NDArray[np.float32],
    bits: NDArray[np.uint32],
    most: int,
    below: float,
    columns: _Columns,
) -> None:
    """`_rank_sorted` for a large tensor, whose scores come in any order: those of one bin alone are sorted."""
    count, last, above, equal, null, value = columns
    size = rows.shape[1]
    bins = np.zeros((NUM_BINS // 2, 2))  # of positive numbers: how many scores, and their sum, which is exact
    for row in range(rows.shape[0]):
        num_scores = 0
        for index in range(size):
            if rows[row, index] > 0:
                bin_ = bits[row, index] >> np.uint32(16)
                bins[bin_, 0] += 1.0
                bins[bin_, 1] += np.float64(rows[row, index])
                num_scores += 1
        null[row] = size - num_scores
        taken = min(most, num_scores)
        while taken > 0:
            before, sum_, bin_ = 0, 0.0, len(bins) - 1
            while before + int(bins[bin_, 0]) < taken:
                before += int(bins[bin_, 0])
                sum_ += bins[bin_, 1]
                bin_ -= 1
            ordered, found = np.empty(int(bins[bin_, 0]), dtype=np.float32), 0
            for index in range(size):
                if bits[row, index] >> np.uint32(16) == bin_ and rows[row, index] > 0:
                    ordered[found] = rows[row, index]
                    found += 1
            ordered.sort()
            if taken == num_scores or ordered[found - taken + before] > below:
                last[row], above[row], equal[row], value[row] = _end(ordered, taken - before, sum_)
                above[row] += before
                break
            taken = num_scores
        count[row] = taken
        bins[:] = 0.0


@njit()
def _end(ordered: NDArray[np.float32], taken: int, sum_: float) -> tuple[np.float32, int, int, float]:
    """Of a selection that ends with the `taken` largest of these scores: the last, those above it, those that equal it,
    and what it is worth, behind scores worth `sum_`.

    It adds up step by step as a `ValueCurve` of the same scores does, to the last bit: bins first, then equal scores at once.
    """
    at = ordered.size - 1
    threshold = ordered[ordered.size - taken]
    above = ordered.size - np.searchsorted(ordered, threshold, side="right")
    equal = ordered.size - np.searchsorted(ordered, threshold, side="left") - above
    while at > ordered.size - 1 - above:
        score, first = ordered[at], at
        while ordered[at] == score:
            at -= 1
        sum_ += np.float64(first - at) * np.float64(score)
    return threshold, above, equal, sum_ + np.float64(taken - above) * np.float64(threshold)


@njit()
def _write_masks(
    bits: NDArray[np.int32],
    offsets: NDArray[np.int64],
    ends: NDArray[np.int64],
    threshold: NDArray[np.int32],
    count: NDArray[np.int64],
    above: NDArray[np.int64],
    equal: NDArray[np.int64],
    mask: NDArray[np.uint8],
    words: NDArray[np.uint64],
    packed: NDArray[np.uint8],
) -> None:
    """Select each tensor's scores above its last one and, the lower index first, those that equal it."""
    for row in range(bits.shape[0]):
        for tensor in range(offsets.size):
            if count[row, tensor] == 0:
                continue
            first, end = offsets[tensor], ends[tensor]
            part, quota = bits[row, first:end], count[row, tensor] - above[row, tensor]
            tie_end = part.size
            if quota < equal[row, tensor]:
                tie_end = end_of_ties(part, threshold[row, tensor], quota)
            eighth, last_eighth = first // 8, (end + 7) // 8
            write_mask_chunk(
                part,
                threshold[row, tensor],
                tie_end,
                mask[row, first:end],
                words[row, eighth:last_eighth],
                packed[row, eighth:last_eighth],
            )
