"""`layerwise` for many small clients at once: their scores as one stack, their programs side by side in one statement.

A small client's solve is nearly all fixed cost: curves, reductions and a call of the solver. A stack pays it once. Every
tensor's scores are sorted, which shows what `scan.py` and the passes find by histogram: the last score that may be
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
from fedpurin.selection.reduction.kernels import end_of_ties, write_mask_chunk
from fedpurin.selection.reduction.scan import SORTED_SIZE
from fedpurin.space import Layout


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
            ordered = np.sort(scores[:, segment.slice], axis=1)
            columns = [table[:, index] for table in (count, last, above, equal, null, value)]
            _rank(ordered, ordered.view(np.uint32), int(most[index]), below, segment.size > SORTED_SIZE, *columns)
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
def _rank(
    ordered: NDArray[np.float32],
    bits: NDArray[np.uint32],
    most: int,
    below: float,
    in_bins: bool,
    count: NDArray[np.int64],
    last: NDArray[np.float32],
    above: NDArray[np.int64],
    equal: NDArray[np.int64],
    null: NDArray[np.int64],
    value: NDArray[np.float64],
) -> None:
    """Columns of `_Ranked` for one tensor, from each client's scores in ascending order.

    The value adds up step by step as a `ValueCurve` of the same scores does, to the last bit: equal scores at once, and
    of large tensors (`in_bins`) all scores of a bin, unless the selection ends in it.
    """
    size = ordered.shape[1]
    for row in range(ordered.shape[0]):
        scores = ordered[row]
        null[row] = np.searchsorted(scores, np.float32(0), side="right")
        num_scores = size - null[row]
        taken = min(most, num_scores)
        if below > 0 and 0 < most < num_scores and scores[size - most] <= below:
            taken = num_scores
        count[row] = taken
        if taken == 0:
            continue
        threshold = scores[size - taken]
        last[row] = threshold
        above[row] = size - np.searchsorted(scores, threshold, side="right")
        equal[row] = size - np.searchsorted(scores, threshold, side="left") - above[row]
        last_bin = bits[row, size - taken] >> np.uint32(16)
        sum_ = 0.0
        at = size - 1
        while at > size - 1 - above[row]:
            step = 0.0
            if in_bins and bits[row, at] >> np.uint32(16) != last_bin:
                bin_ = bits[row, at] >> np.uint32(16)
                while at >= 0 and bits[row, at] >> np.uint32(16) == bin_:
                    step += np.float64(scores[at])  # of one exponent: exact
                    at -= 1
            else:
                score, first = scores[at], at
                while at >= 0 and scores[at] == score:
                    at -= 1
                step = np.float64(first - at) * np.float64(score)
            sum_ += step
        value[row] = sum_ + np.float64(taken - above[row]) * np.float64(threshold)


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
