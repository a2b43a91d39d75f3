"""`Selector`: scores in, certified mask out. Reduce, solve, lift.

Owns the order of the steps and what is checked before training starts. Does not own the programs
(`cardinality.py`, `budget/program.py`) nor the passes over the scores (`scan.py`).
"""

from __future__ import annotations

import time

import torch
from jaxtyping import Float32
from torch import Tensor

from fedpurin.config import ProgramConfig
from fedpurin.exchange.wire.costs import upload_overhead_bytes
from fedpurin.selection.answer import Answer, name_status, relative_gap
from fedpurin.selection.budget.program import BudgetProgram
from fedpurin.selection.cardinality import CardinalityProgram
from fedpurin.selection.certificate import Certificate, Selection
from fedpurin.selection.own import OwnProgram
from fedpurin.selection.reduction.curve import ValueCurve
from fedpurin.selection.reduction.scan import Scan, Threshold, open_scan
from fedpurin.selection.solver import require_installed
from fedpurin.selection.stack import solve_stack
from fedpurin.space import Layout


class Selector:
    """One program for one layout, solved for many score vectors.

    Args:
        layout: the shared parameters.
        program: which program, and its limits.
        value_bytes: size of a value on the wire (`budget`).
        overhead_bytes: what an upload weighs besides its tensors (`budget`).

    Raises:
        ConfigError: no mask can satisfy the program, or its solver is not installed.
    """

    def __init__(
        self,
        layout: Layout,
        program: ProgramConfig,
        *,
        value_bytes: int = 4,
        overhead_bytes: int = upload_overhead_bytes("on_demand"),
    ) -> None:
        self.layout = layout
        self.config = program
        self.own = OwnProgram(layout, program, value_bytes, overhead_bytes) if program.name == "custom" else None
        if self.own is not None:
            return  # the user's function is the whole of it
        require_installed(program.solver)
        self.program: BudgetProgram | CardinalityProgram = (
            BudgetProgram(layout, program, value_bytes, overhead_bytes)
            if program.name == "budget"
            else CardinalityProgram(layout, program)
        )

    def solve(self, scores: Float32[Tensor, " length"]) -> Selection:
        """Solve the program for these scores, on their device. Called from one thread at a time.

        Raises:
            ValueError: a score is NaN, infinite or negative, or the vector does not fit the layout.
            SolverError: the solver failed.
        """
        start = time.perf_counter()
        if self.own is not None:
            return self.own.select(scores)
        self._check(scores)
        scan = open_scan(self.layout, scores)
        answer = self.program.solve(scan, start + self.config.time_limit)
        return self._select(scan, answer, time.perf_counter() - start)

    def solve_many(self, scores: Float32[Tensor, "clients length"]) -> list[Selection]:
        """Solve the programs of several clients, one row each: the masks and certificates that `solve` gives.

        `layerwise` and `global` programs are stated side by side and solved by one call of the solver, whose time each
        certificate has an equal share of. Those of `budget` are solved one by one: side by side they take longer
        (docs/selection.md).

        Raises:
            ValueError: a score is NaN, infinite or negative, or the rows do not fit the layout.
            SolverError: the solver failed.
        """
        if self.own is not None:
            return [self.own.select(row) for row in scores]
        program = self.program
        if len(scores) < 2 or not isinstance(program, CardinalityProgram) or not program.can_join:
            return [self.solve(row) for row in scores]
        self._check(scores[0])
        together = self._join(program, scores) if program.couples_tensors else solve_stack(program, self.layout, scores)
        return [one or self.solve(row) for one, row in zip(together, scores, strict=True)]

    def _join(self, program: CardinalityProgram, scores: Float32[Tensor, "clients length"]) -> list[Selection | None]:
        """Solve every row's program by one call; None in the place of a row that it left short of its bound."""
        start = time.perf_counter()
        scans = [open_scan(self.layout, row) for row in scores]
        answers = program.solve_many(scans, start + len(scans) * self.config.time_limit)
        seconds = (time.perf_counter() - start) / len(scans)
        return [
            self._select(scan, answer, seconds)
            if answer.is_finished and answer.upper_bound == answer.objective
            else None
            for scan, answer in zip(scans, answers, strict=True)
        ]

    def _check(self, scores: Float32[Tensor, " length"]) -> None:
        if tuple(scores.shape) != (self.layout.length,) or scores.dtype != torch.float32:
            raise ValueError(
                f"got {scores.dtype} scores of shape {tuple(scores.shape)}; the layout needs float32 and "
                f"({self.layout.length},)"
            )

    def _select(self, scan: Scan, answer: Answer, seconds: float) -> Selection:
        """Write the mask; `seconds` is what came before."""
        start = time.perf_counter()
        thresholds = [_threshold(curve, k) for curve, k in zip(answer.curves, answer.counts, strict=True)]
        packed, mask = scan.write_mask(thresholds)
        certificate = self._certify(answer, seconds + time.perf_counter() - start)
        return Selection(packed, mask, certificate, answer.encodings)

    def _certify(self, answer: Answer, total_seconds: float) -> Certificate:
        gap = relative_gap(answer.objective, answer.upper_bound)
        return Certificate(
            status=name_status(gap, self.config.gap_tolerance, answer.is_finished, answer.has_failed),
            objective=answer.objective,
            upper_bound=answer.upper_bound,
            gap=gap,
            num_selected=sum(answer.counts),
            num_null=sum(curve.num_null for curve in answer.curves),
            core_size=answer.core_size,
            reduction_seconds=total_seconds - answer.building_seconds - answer.solver_seconds,
            building_seconds=answer.building_seconds,
            solver_seconds=answer.solver_seconds,
            total_seconds=total_seconds,
        )


def _threshold(curve: ValueCurve, count: int) -> Threshold | None:
    """What selects the `count` largest scores, the lower index first among equal ones."""
    if count == 0:
        return None
    step = curve.step_at(count)
    assert curve.is_exact(step)
    return Threshold(float(curve.top[step]), count - int(curve.num[step]), int(curve.count[step]))
