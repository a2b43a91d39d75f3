"""The program `budget`: an exact cap on the bytes of an upload. docs/method.md, "Programs".

Owns the search: price a byte, find a good start, close what the price rules out, let the solver settle the rest,
and look closer where its answer lies, until the certified gap is small enough. The upper bound is the smaller of the
Lagrangian's and the solver's, each over curves that lie nowhere below the true ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from fedpurin.config import ConfigError, ProgramConfig
from fedpurin.exchange.wire.costs import Encoding, EncodingCost, dense_bytes, encoding_costs
from fedpurin.selection.answer import Answer, close_gap, relative_gap
from fedpurin.selection.budget.byte_passes import AggregateCurve, DropDominated, FixByBytePrice, FixByCapacity
from fedpurin.selection.budget.byte_prices import ByteLagrangian, BytePrices
from fedpurin.selection.budget.core import BudgetSolver, CoreSolution, solve_unreduced
from fedpurin.selection.budget.incumbent import Incumbent, best_of, evaluate, fill_greedily, improve_encodings
from fedpurin.selection.reduction.instance import Choice, Instance, Plan
from fedpurin.selection.reduction.passes import Chain, DropNull, Reduction
from fedpurin.selection.reduction.scan import Scan
from fedpurin.selection.solver import SolverError
from fedpurin.space import Layout

_COARSE, _FINE = 4, 16  # intervals of a curve where the prices alone close the gap, and where they do not
_MAX_EXACT = 4_096  # open scores up to which the core holds each of them: with gap_tolerance 0, else not needed
_MAX_ROUNDS = 40
_MAX_STALLED = 3
_PASSES = (DropNull(), DropDominated(), FixByBytePrice(), FixByCapacity())


class BudgetProgram:
    """`budget` for one layout.

    Raises:
        ConfigError: not even an upload without values fits the budget.
    """

    def __init__(
        self,
        layout: Layout,
        program: ProgramConfig,
        value_bytes: int,
        overhead_bytes: int,
        passes: Sequence[Reduction] | None = None,
    ) -> None:
        self.program = program
        self.passes = tuple(passes) if passes is not None else _PASSES
        self.all_costs = [encoding_costs(segment.size, value_bytes) for segment in layout]
        dense = dense_bytes(layout, value_bytes)
        allowed = math.floor(program.budget * dense) if program.budget <= 1 else int(program.budget)
        self.capacity = allowed - overhead_bytes
        empty = overhead_bytes + sum(costs[0].size(0) for costs in self.all_costs)
        if allowed < empty:
            raise ConfigError(
                f"program.budget={program.budget} is {allowed} bytes; an upload without a single value "
                f"already has {empty} (a dense one {dense})"
            )
        # NONE is COORDINATE16 with nothing sent: a planner needs it only to name the result.
        self.costs = [[cost for cost in costs if cost.encoding != Encoding.NONE] for costs in self.all_costs]
        self._solver = BudgetSolver(program.solver)

    def solve(self, scan: Scan, deadline: float) -> Answer:
        """Solve for the scores that the scan sees; `deadline` is a reading of `time.perf_counter`."""
        instance, incumbent = self._price(self._open(scan), None)
        if not self.program.reduce:
            return self._solve_unreduced(instance, incumbent, deadline)
        assert instance.prices is not None
        bound = instance.prices.bound
        start_gap = relative_gap(incumbent.objective, bound)
        intervals = _COARSE if start_gap <= self.program.gap_tolerance else _FINE
        stalled, building, solving, core_size, is_finished, has_failed = 0, 0.0, 0.0, 0, True, False
        for _ in range(_MAX_ROUNDS):
            before = bound, incumbent.objective
            core, solution, plan = self._solve_core(instance, incumbent, intervals, deadline)
            building, solving = building + solution.building_seconds, solving + solution.solver_seconds
            core_size, is_finished = max(core_size, solution.core_size), solution.is_finished
            has_failed = solution.has_failed
            # What the passes closed cannot be better than the incumbent; what they left is below the solver's bound.
            bound = min(bound, max(solution.upper_bound, before[1]))
            instance = replace(instance, curves=core.curves)
            if plan is not None:
                instance, incumbent = self._lift(instance, plan, incumbent)
            bound = _close_nothing(instance, bound)
            gap = relative_gap(incumbent.objective, close_gap(incumbent.objective, bound))
            stalled = stalled + 1 if (bound, incumbent.objective) == before else 0
            if gap <= self.program.gap_tolerance or stalled > _MAX_STALLED:
                break
            if has_failed:
                break
            if not is_finished or time.perf_counter() >= deadline:
                is_finished = False
                break
            intervals = min(2 * intervals, _MAX_EXACT)
            instance, incumbent = self._price(instance, incumbent)
            assert instance.prices is not None
            bound = min(bound, instance.prices.bound)
        instance, incumbent = self._sharpen(instance, incumbent)
        return self._answer(instance, incumbent, bound, is_finished, core_size, building, solving, has_failed)

    def _open(self, scan: Scan) -> Instance:
        sizes = [segment.size for segment in scan.layout]
        return Instance(
            scan,
            tuple(scan.curves()),
            tuple(
                Choice(tensor, 0, size, cost)
                for tensor, (size, costs) in enumerate(zip(sizes, self.costs, strict=True))
                for cost in costs
            ),
            capacity=self.capacity,
            anchors=((),) * len(sizes),
        )

    def _price(self, instance: Instance, incumbent: Incumbent | None) -> tuple[Instance, Incumbent]:
        """The best price of a byte for the curves at hand, and the best start that it leads to."""
        lagrangian = ByteLagrangian(instance.curves, self.costs, self.capacity)
        flat = [cost for costs in self.costs for cost in costs]
        sides = lagrangian.minimise()
        starts = [
            fill_greedily(instance.curves, [flat[index] for index in lagrangian.best(side)], self.capacity)
            for side in sides
        ]
        smallest = [min(costs, key=lambda cost: cost.fixed) for costs in self.costs]
        starts.append(fill_greedily(instance.curves, smallest, self.capacity))
        start = best_of(incumbent, *starts)
        assert start is not None  # the smallest encodings of nothing fit: checked at construction
        start = improve_encodings(instance.curves, self.costs, self.capacity, start)
        response = min(sides, key=lagrangian.bound)
        prices = BytePrices(lagrangian, response, lagrangian.bound(response), start.objective)
        anchors = tuple((count, *known[:1]) for count, known in zip(start.counts, instance.anchors, strict=True))
        return replace(instance, prices=prices, anchors=anchors), start

    def _solve_core(
        self, instance: Instance, incumbent: Incumbent, intervals: int, deadline: float
    ) -> tuple[Instance, CoreSolution, Plan | None]:
        max_exact = _MAX_EXACT if self.program.gap_tolerance == 0.0 else 0
        chain = Chain((*self.passes, AggregateCurve(intervals, max_exact)))
        core, stack = chain.apply(instance)
        solution = self._solver.solve(
            core,
            absolute_gap=0.25 * self.program.gap_tolerance * incumbent.objective,
            time_limit=deadline - time.perf_counter(),
        )
        plan = None if solution.plan is None else chain.invert(solution.plan, stack)
        return core, solution, plan

    def _lift(self, instance: Instance, plan: Plan, incumbent: Incumbent) -> tuple[Instance, Incumbent]:
        """Turn the solver's plan into feasible solutions: as it stands, and filled greedily under its encodings."""
        costs = [instance.choices[index].cost for index in plan.choice]
        chosen = [cost for cost in costs if cost is not None]
        instance = replace(instance, anchors=tuple((count,) for count in plan.count))
        instance = _split_at(instance, plan.count)
        candidates = [incumbent, fill_greedily(instance.curves, chosen, self.capacity)]
        stated = evaluate(instance.curves, plan.count, chosen)
        if stated.num_bytes <= self.capacity:
            candidates.append(stated)
        best = best_of(*candidates)
        assert best is not None
        return instance, improve_encodings(instance.curves, self.costs, self.capacity, best)

    def _sharpen(self, instance: Instance, incumbent: Incumbent) -> tuple[Instance, Incumbent]:
        """Make the curves exact at the counts that become thresholds."""
        instance = _split_at(instance, incumbent.counts)
        return instance, evaluate(instance.curves, incumbent.counts, incumbent.costs)

    def _solve_unreduced(self, instance: Instance, incumbent: Incumbent, deadline: float) -> Answer:
        solution = solve_unreduced(
            instance.scan,
            self.all_costs,
            self.capacity,
            self.program.solver,
            objective=incumbent.objective,
            absolute_gap=self.program.gap_tolerance * incumbent.objective,
            time_limit=deadline - time.perf_counter(),
        )
        if solution.plan is not None:
            chosen = [costs[index] for costs, index in zip(self.all_costs, solution.plan.choice, strict=True)]
            instance = _split_at(instance, solution.plan.count)
            found = evaluate(instance.curves, solution.plan.count, chosen)
            if found.num_bytes > self.capacity:
                raise SolverError(
                    f"{self.program.solver} returned {found.num_bytes} bytes, the budget has {self.capacity}"
                )
            if solution.is_finished or found.objective > incumbent.objective:
                incumbent = found
        assert instance.prices is not None
        bound = instance.prices.bound
        instance, incumbent = self._sharpen(instance, incumbent)
        return self._answer(
            instance,
            incumbent,
            min(solution.upper_bound, bound)
            if solution.has_failed or not solution.is_finished
            else solution.upper_bound,
            solution.is_finished,
            solution.core_size,
            solution.building_seconds,
            solution.solver_seconds,
            solution.has_failed,
        )

    def _answer(
        self,
        instance: Instance,
        incumbent: Incumbent,
        bound: float,
        is_finished: bool,
        core_size: int,
        building_seconds: float,
        solver_seconds: float,
        has_failed: bool = False,
    ) -> Answer:
        assert incumbent.num_bytes <= self.capacity
        return Answer(
            incumbent.counts,
            instance.curves,
            incumbent.objective,
            close_gap(incumbent.objective, max(bound, incumbent.objective)),
            is_finished,
            core_size,
            building_seconds,
            solver_seconds,
            tuple(map(_name_encoding, self.all_costs, incumbent.counts)),
            has_failed,
        )


def _close_nothing(instance: Instance, bound: float) -> float:
    """A bound below every single score leaves only the empty mask."""
    smallest = min((float(curve.bottom[-1]) for curve in instance.curves if curve.num_steps), default=math.inf)
    return 0.0 if bound < smallest else bound


def _split_at(instance: Instance, counts: Sequence[int]) -> Instance:
    """Make the curves exact around these counts."""
    steps: dict[int, set[int]] = {}
    for tensor, count in enumerate(counts):
        curve = instance.curves[tensor]
        near = {k for k in (count, count + 1) if 1 <= k <= curve.num_scores}
        steps[tensor] = {curve.step_at(k) for k in near}
    return replace(instance, curves=tuple(instance.scan.refine(instance.curves, steps)))


def _name_encoding(costs: Sequence[EncodingCost], count: int) -> Encoding:
    """The smallest encoding for the count; NONE only where nothing is sent."""
    able = [cost for cost in costs if cost.encoding != Encoding.NONE or count == 0]
    return min(able, key=lambda cost: cost.size(count)).encoding
