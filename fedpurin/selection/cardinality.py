"""The programs `layerwise` and `global`: counts are limited, bytes are not. docs/method.md, step 3 and "Programs".

Owns the counts they allow and how they are solved. Does not own their prices (`prices.py`) or their statement
(`programs.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpurin.config import ConfigError, ProgramConfig
from fedpurin.selection.answer import RESOLUTION, Answer, close_gap
from fedpurin.selection.programs import Statement, Values, state_global, state_layerwise
from fedpurin.selection.reduction.curve import ValueCurve
from fedpurin.selection.reduction.instance import Choice, Instance, Items, Plan, items_of
from fedpurin.selection.reduction.passes import AggregateEqual, Chain, DropNull, Reduction
from fedpurin.selection.reduction.prices import FixByPrice, excess_of_bound, fill_ties, price_counts, settle_ties
from fedpurin.selection.reduction.scan import Scan
from fedpurin.selection.solver import InvalidStatusError, Outcome, SolverError, solve_statement
from fedpurin.space import Layout

_VARIABLES_AT_A_TIME = 16  # what is left over stays empty, so that a statement seldom changes its shape
_LARGEST_SCORE = 1e6  # as the solver sees it; its absolute tolerances are 1e-9 and 1e-7


@dataclass(frozen=True, slots=True)
class _Core:
    """One client's program before and after the passes, and what the solver decides of it."""

    full: Instance
    reduced: Instance
    stack: list[tuple[Reduction, Any]]
    items: Sequence[Items]


class CardinalityProgram:
    """`layerwise` or `global` for one layout.

    Raises:
        ConfigError: no mask can have the density floor, the density ceiling and τ together.
    """

    def __init__(self, layout: Layout, program: ProgramConfig, passes: Sequence[Reduction] | None = None) -> None:
        self.program = program
        self.chain = Chain(passes if passes is not None else (DropNull(), FixByPrice(), AggregateEqual()))
        sizes = [segment.size for segment in layout]
        self.total: int | None = None
        if program.name == "layerwise":
            self.floor, self.ceiling = [0] * len(sizes), [math.floor(program.tau * size) for size in sizes]
        else:
            # Rounded first: 0.07 of 100 parameters are 7, although 0.07 · 100 is above 7 in binary.
            self.floor = [math.ceil(round(program.density_floor * size, 9)) for size in sizes]
            self.ceiling = [math.floor(round(program.density_ceiling * size, 9)) for size in sizes]
            self.total = math.floor(program.tau * layout.size)
            self._check_bounds(layout, self.total)
        self._statements: dict[tuple[tuple[int, ...], int], Statement] = {}

    def _check_bounds(self, layout: Layout, total: int) -> None:
        options = f"program.density_floor={self.program.density_floor}"
        for segment, floor, ceiling in zip(layout, self.floor, self.ceiling, strict=True):
            if floor > ceiling:
                raise ConfigError(
                    f"{options} and program.density_ceiling={self.program.density_ceiling} leave no count for "
                    f"{segment.name}: at least {floor} and at most {ceiling} of its {segment.size} parameters"
                )
        if sum(self.floor) > total:
            raise ConfigError(
                f"{options} asks for at least {sum(self.floor)} parameters in all; program.tau={self.program.tau} "
                f"allows {total} of {layout.size}"
            )

    def solve(self, scan: Scan, deadline: float) -> Answer:
        """Solve for the scores that the scan sees; `deadline` is a reading of `time.perf_counter`."""
        return self.solve_many([scan], deadline)[0]

    def solve_many(self, scans: Sequence[Scan], deadline: float) -> list[Answer]:
        """Solve for several clients' scores: stated side by side, one call of the solver.

        Each answer has an equal share of the solver's time. A client that the solver leaves short of its bound, also by a
        time limit, is for the caller to solve alone.
        """
        cores = [self._reduce(scan) for scan in scans]
        counts, outcome, scales = self._solve_items(cores, deadline)
        building, solving = outcome.building_seconds / len(scans), outcome.solver_seconds / len(scans)
        own = replace(outcome, building_seconds=building, solver_seconds=solving)
        return [self._finish(*each, own) for each in zip(cores, counts, scales, strict=True)]

    @property
    def can_join(self) -> bool:
        """Whether several clients' programs may be one statement: reduced, each has a few items."""
        return self.program.reduce

    @property
    def couples_tensors(self) -> bool:
        """Whether a selection in one tensor leaves less for another (`global`)."""
        return self.total is not None

    def solve_ties(
        self,
        score: NDArray[np.float64],
        size: NDArray[np.int64],
        ceiling: NDArray[np.int64],
        deadline: float,
    ) -> tuple[NDArray[np.bool_], Outcome]:
        """Solve several clients' cores by one call, where a tensor has one item at most; arrays are [clients, tensors].

        Tensors are not coupled here, and those of one size and ceiling have the same program but for a factor of its
        objective: one variable stands for all of them, with the sum of their scores. Says of each client whether the
        solver took as much as its tensors' ceilings and sizes allow.
        """
        highest = score.max(axis=1, initial=0.0)
        scale = np.divide(_LARGEST_SCORE, highest, out=np.ones_like(highest), where=highest > 0)
        alike, place = np.unique(np.stack((size.ravel(), ceiling.ravel())), axis=1, return_inverse=True)
        number = -(-alike.shape[1] // _VARIABLES_AT_A_TIME) * _VARIABLES_AT_A_TIME
        sizes, ceilings = np.zeros((2, number))
        sizes[: alike.shape[1]], ceilings[: alike.shape[1]] = alike
        scores = np.bincount(place.ravel(), (score * scale[:, None]).ravel(), minlength=number)
        values = {"score": scores, "size": sizes, "ceiling": ceilings}
        statement = self._state((1,) * number, values)
        outcome = self._call(statement, deadline)
        if not outcome.has_solution:
            return np.zeros(len(score), dtype=bool), outcome
        taken = np.rint(statement.variables["x"].value)[place.reshape(score.shape)]
        is_best: NDArray[np.bool_] = (taken == np.minimum(ceiling, size)).all(axis=1)
        return is_best, outcome

    def _reduce(self, scan: Scan) -> _Core:
        full = price_counts(self._open(scan))
        core, stack = self.chain.apply(full) if self.program.reduce else (full, [])
        return _Core(full, core, stack, self._items(core) if self.program.reduce else _single_parameters(scan))

    def _finish(self, reduced: _Core, counts: tuple[int, ...] | None, scale: float, outcome: Outcome) -> Answer:
        """Lift one client's counts, check them, and bound them by the prices."""
        full, stack, items = reduced.full, reduced.stack, reduced.items
        assert full.limits is not None
        most = sum(full.limits.high)
        priced = fill_ties(full.limits, most if full.total is None else min(full.total, most))
        plan = priced if counts is None else settle_ties(full.limits, self.chain.invert(Plan(counts), stack))
        self._check(plan, full)
        full = price_counts(full, plan)
        excess = excess_of_bound(full, plan)
        # The prices' own counts are feasible. They take over where the solver was stopped before it had as good, and
        # where scores of one tensor are too small beside another's for its tolerances, though not for the prices.
        if not outcome.is_finished or (self.program.reduce and excess <= RESOLUTION * _objective(full, plan)):
            plan, excess = priced, excess_of_bound(full, priced)
        objective = _objective(full, plan)
        if self.program.reduce or not outcome.is_finished:
            upper_bound = objective + excess
        else:
            upper_bound = close_gap(objective, max(objective, outcome.upper_bound / scale))
        return Answer(
            plan.count,
            full.curves,
            objective,
            upper_bound,
            outcome.is_finished,
            sum(int(np.count_nonzero(item.size)) for item in items),
            outcome.building_seconds,
            outcome.solver_seconds,
        )

    def _open(self, scan: Scan) -> Instance:
        curves, ceiling = self._opened(scan, scan.curves())
        numbers = [curve.num_scores for curve in curves]
        return Instance(
            scan,
            tuple(curves),
            tuple(Choice(index, 0, segment.size) for index, segment in enumerate(scan.layout)),
            floor=tuple(map(min, self.floor, numbers)),  # a tensor with fewer scores gives what it has
            ceiling=tuple(map(min, ceiling, numbers)),
            total=self.total,
        )

    def _opened(self, scan: Scan, curves: list[ValueCurve]) -> tuple[list[ValueCurve], list[int]]:
        """The ceilings, without one where a tensor's scores are so small that `open_below` lifts it."""
        below, ceiling = float(np.float32(self.program.open_below)), list(self.ceiling)
        if self.program.name != "layerwise" or below == 0:
            return curves, ceiling
        bounded = [i for i, most in enumerate(ceiling) if 0 < most < curves[i].num_scores]
        last = {i: curves[i].step_at(ceiling[i]) for i in bounded}
        unclear = {i: [step] for i, step in last.items() if curves[i].bottom[step] <= below < curves[i].top[step]}
        curves = scan.refine(curves, unclear) if unclear else curves
        for i in bounded:
            if curves[i].top[curves[i].step_at(ceiling[i])] <= below:
                ceiling[i] = curves[i].num_scores
        return curves, ceiling

    @staticmethod
    def _items(instance: Instance) -> list[Items]:
        """One item at least for each tensor, if only an empty one, so that the statement keeps its shape."""
        items = (items_of(instance, choice) for choice in instance.choices)
        return [item if len(item.size) else Items(np.zeros(1), np.zeros(1)) for item in items]

    def _solve_items(
        self, cores: Sequence[_Core], deadline: float
    ) -> tuple[Sequence[tuple[int, ...] | None], Outcome, list[float]]:
        """Each client's counts of its tensors if the solver has a solution, the outcome, and the scales it saw scores at."""
        items = [item for core in cores for item in core.items]
        highest = [max(float(item.score.max(initial=0.0)) for item in core.items) for core in cores]
        scales = [_LARGEST_SCORE / high if high > 0 else 1.0 for high in highest]
        values = {
            "score": np.concatenate([i.score * scale for c, scale in zip(cores, scales, strict=True) for i in c.items]),
            "size": np.concatenate([item.size for item in items]),
            "floor": np.array([floor for core in cores for floor in core.reduced.floor], dtype=float),
            "ceiling": np.array([ceiling for core in cores for ceiling in core.reduced.ceiling], dtype=float),
            "total": np.array([core.reduced.total or 0 for core in cores], dtype=float),
        }
        statement = self._state(tuple(len(item.size) for item in items), values, len(cores))
        outcome = self._call(statement, deadline)
        if not outcome.has_solution:
            return [None] * len(cores), outcome, scales
        starts = np.cumsum([0, *(len(item.size) for item in items)])[:-1]
        counts = np.rint(np.add.reduceat(statement.variables["x"].value, starts)).astype(int)
        return [tuple(row) for row in counts.reshape(len(cores), -1).tolist()], outcome, scales

    def _call(self, statement: Statement, deadline: float) -> Outcome:
        """Let the solver find values for the statement's variables; nonsense that it says is no solution."""
        try:
            return solve_statement(
                statement.problem,
                self.program.solver,
                absolute_gap=0.0,
                time_limit=deadline - time.perf_counter(),
                is_core=self.program.reduce,
            )
        except InvalidStatusError:
            return Outcome(False, False, math.inf, 0.0, 0.0)

    def _state(self, num_items: tuple[int, ...], values: Values, num_clients: int = 1) -> Statement:
        """The program for so many items of each tensor; cores of a shape seen before are compiled already."""
        tensor_of_item = np.repeat(np.arange(len(num_items)), num_items)

        def state(values: Values | None = None) -> Statement:
            if self.total is None:
                return state_layerwise(tensor_of_item, len(num_items), values)
            return state_global(tensor_of_item, len(num_items), values, num_clients=num_clients)

        if not self.program.reduce:
            return state(values)
        if (num_items, num_clients) not in self._statements:
            if len(self._statements) >= 4:
                self._statements.clear()
            self._statements[num_items, num_clients] = state()
        self._statements[num_items, num_clients].fill(values)
        return self._statements[num_items, num_clients]

    def _check(self, plan: Plan, full: Instance) -> None:
        """The solver's counts, rounded, against the exact bounds."""
        bounds = zip(full.floor, plan.count, full.ceiling, strict=True)
        if any(not floor <= count <= ceiling for floor, count, ceiling in bounds) or (
            full.total is not None and sum(plan.count) > full.total
        ):
            raise SolverError(f"{self.program.solver} returned counts that violate program.name={self.program.name}")


def _objective(instance: Instance, plan: Plan) -> float:
    return math.fsum(curve.value_at(k) for curve, k in zip(instance.curves, plan.count, strict=True))


def _single_parameters(scan: Scan) -> list[Items]:
    """The full program's items: every parameter by itself, in its own place."""
    scores = scan.scores.cpu().numpy().astype(np.float64)
    parts = (scores[segment.slice] for segment in scan.layout)
    return [Items(part, (part > 0).astype(np.float64)) for part in parts]
