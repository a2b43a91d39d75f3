"""From a reduced instance of `budget` to CVXPY's parameters, and from the solver's values back to a plan.

Owns the shapes that the statement is compiled for, its units and the rounding. Does not own the statement
(`programs.py`) or the search around it (`budget/program.py`).

The solver sees reduced costs: every score less what its bytes cost at the dual price, every choice's loss against
the tensor's best. All of them are of the size of the duality gap, which the scale makes 10³, so that the solver's
absolute tolerances are small against the *gap*, not only against the objective.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedpurin.exchange.wire.costs import Encoding, EncodingCost
from fedpurin.selection.answer import RESOLUTION
from fedpurin.selection.budget.byte_passes import by_tensor
from fedpurin.selection.programs import Statement, Values, state_budget
from fedpurin.selection.reduction.instance import Instance, Items, Plan, items_of
from fedpurin.selection.reduction.scan import Scan
from fedpurin.selection.solver import InvalidStatusError, solve_statement

_GAP_SCALE = 1e3
_LARGEST_NUMBER = 1e12  # as the solver sees it: SCIP takes 1e20 for infinity, and 1e-9 for zero
_OBJECTIVE_SCALE = 1e6
_LEAST_WIDTH = 8
_MAX_UNIFORM_ITEMS = 8_192


@dataclass(frozen=True, slots=True)
class CoreSolution:
    """What the solver found; `plan` is None if a limit stopped it first."""

    plan: Plan | None
    upper_bound: float
    is_finished: bool
    core_size: int
    building_seconds: float
    solver_seconds: float
    has_failed: bool = False
    """The solver called the program infeasible or unbounded, which it is not: nothing but the prices is known."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """A place for one choice in the compiled statement."""

    index: int
    """Of the choice in the instance; −1 where the place is not needed."""
    items: Items


_EMPTY = _Slot(-1, Items(np.zeros(0), np.zeros(0)))


class BudgetSolver:
    """Compiled statements of `budget`, kept between solves."""

    def __init__(self, solver: str) -> None:
        self.solver = solver
        self._statements: dict[tuple[int, tuple[int, ...]], Statement] = {}

    def solve(self, instance: Instance, *, absolute_gap: float, time_limit: float) -> CoreSolution:
        """Solve a reduced instance. `absolute_gap` is in units of the scores.

        Raises:
            SolverError: the solver failed.
        """
        assert instance.prices is not None
        assert instance.capacity is not None
        if (settled := _settle(instance, instance.capacity)) is not None:
            return settled
        slots = _arrange(instance)
        widths = _widths(slots)
        statement = self._statement(len(instance.curves), widths)
        values, scale = _scale(instance, slots, widths)
        statement.fill(values)
        try:
            outcome = solve_statement(
                statement.problem,
                self.solver,
                absolute_gap=absolute_gap * scale,
                time_limit=time_limit,
                is_core=True,
            )
        except InvalidStatusError:  # the caller has a solution, and the prices a bound
            return CoreSolution(None, math.inf, True, 0, 0.0, 0.0, has_failed=True)
        return CoreSolution(
            _read(statement, slots, len(instance.curves)) if outcome.has_solution else None,
            outcome.upper_bound / scale + instance.prices.bound,
            outcome.is_finished,
            sum(2 + len(slot.items.size) for slot in slots if slot.index >= 0),
            outcome.building_seconds,
            outcome.solver_seconds,
        )

    def _statement(self, num_tensors: int, widths: tuple[int, ...]) -> Statement:
        """The statement for so many items in each slot; slots are dealt out evenly to the tensors."""
        if (num_tensors, widths) not in self._statements:
            if len(self._statements) >= 8:
                self._statements.clear()
            slots = np.arange(len(widths))
            self._statements[num_tensors, widths] = state_budget(
                slots // (len(widths) // num_tensors), slots, np.repeat(slots, widths), integer_items=False
            )
        return self._statements[num_tensors, widths]


def _settle(instance: Instance, capacity: int) -> CoreSolution | None:
    """The solution where nothing is left to decide: one closed choice a tensor, or no plan that fits."""
    least: dict[int, int] = {}
    for choice in instance.choices:
        assert choice.cost is not None
        size = choice.cost.size(choice.low)
        least[choice.tensor] = min(size, least.get(choice.tensor, size))
    if sum(least.values()) > capacity:  # so the incumbent cannot be beaten
        return CoreSolution(None, -math.inf, True, 0, 0.0, 0.0)
    if len(instance.choices) > len(least) or any(choice.high > choice.low for choice in instance.choices):
        return None
    objective = math.fsum(instance.curves[choice.tensor].value_at(choice.low) for choice in instance.choices)
    plan = Plan((0,) * len(least), tuple(range(len(least))))  # counts are from `low` on
    return CoreSolution(plan, objective, True, 0, 0.0, 0.0)


def _arrange(instance: Instance) -> list[_Slot]:
    """Deal the choices to slots, the same number for each tensor."""
    members = [listed for _, listed in by_tensor(instance.choices)]
    slots = []
    for row in members:
        filled = [_Slot(index, items_of(instance, instance.choices[index])) for index in row]
        slots += filled + [_EMPTY] * (max(map(len, members)) - len(filled))
    return slots


def _widths(slots: Sequence[_Slot]) -> tuple[int, ...]:
    """Items that each slot is compiled for: the same for all where that stays small, so that shapes recur."""
    needed = [_power_of_two(len(slot.items.size)) for slot in slots]
    uniform = max(needed)
    return tuple(needed) if uniform * len(slots) > _MAX_UNIFORM_ITEMS else (uniform,) * len(slots)


def _power_of_two(count: int) -> int:
    return max(1 << max(count - 1, 0).bit_length(), _LEAST_WIDTH)


def _scale(instance: Instance, slots: Sequence[_Slot], widths: tuple[int, ...]) -> tuple[Values, float]:
    """The statement's numbers, and the scale between the instance's objective and the solver's."""
    prices = instance.prices
    assert prices is not None
    assert instance.capacity is not None
    price, num_tensors = prices.response.price, len(instance.curves)
    best = np.maximum.reduceat(prices.response.gain, prices.lagrangian.first)
    scale = _GAP_SCALE / max(prices.slack, RESOLUTION * prices.bound) if prices.bound > 0 else 1.0

    fixed, per_value, base, span = (np.zeros(len(slots)) for _ in range(4))
    allowed = np.array([slot.index >= 0 for slot in slots])
    ends = np.cumsum(widths)
    score, size = np.zeros(ends[-1]), np.zeros(ends[-1])
    for position, slot in enumerate(slots):
        if slot.index < 0:
            continue
        choice = instance.choices[slot.index]
        assert choice.cost is not None
        fixed[position], per_value[position] = choice.cost.size(choice.low), choice.cost.per_value
        span[position] = choice.high - choice.low
        worth = instance.curves[choice.tensor].value_at(choice.low) - price * fixed[position]
        base[position] = worth - best[choice.tensor]
        start = ends[position] - widths[position]
        part = slice(start, start + len(slot.items.size))
        score[part] = slot.items.score - price * choice.cost.per_value
        size[part] = slot.items.size
    # What a tensor pays in any case is no part of the decision: the smaller the byte row's numbers, the better.
    charges = np.where(allowed, fixed, np.inf).reshape(num_tensors, -1)
    unavoidable = charges.min(axis=1, keepdims=True)
    largest = max(float(np.abs(base).max()), float(np.abs(score).max(initial=0.0)), price)
    if largest > 0:  # where the gap is no more than rounding, its scale would push the rest beyond the solver's range
        scale = min(scale, _LARGEST_NUMBER / largest)
    values = {
        "fixed": np.where(np.isfinite(charges), charges - unavoidable, 0.0).ravel(),
        "capacity": float(instance.capacity - unavoidable.sum()),
        "per_value": per_value,
        "span": span,
        "allowed": allowed.astype(float),
        "base": base * scale,
        "price": price * scale,
        "score": score * scale,
        "size": size,
    }
    return values, float(scale)


def _read(statement: Statement, slots: Sequence[_Slot], num_tensors: int) -> Plan:
    """The taken choice of each tensor and its count, rounded to integers."""
    taken = statement.variables["y"].value.reshape(num_tensors, -1).argmax(axis=1)
    positions = taken + np.arange(num_tensors) * (len(slots) // num_tensors)
    counts = np.rint(statement.variables["k"].value[positions]).astype(int)
    return Plan(tuple(counts.tolist()), tuple(slots[position].index for position in positions))


def solve_unreduced(
    scan: Scan,
    costs: Sequence[Sequence[EncodingCost]],
    capacity: int,
    solver: str,
    *,
    objective: float,
    absolute_gap: float,
    time_limit: float,
) -> CoreSolution:
    """Solve the full program, one binary a parameter and all encodings; `objective` is any feasible one, for the scale.

    Raises:
        SolverError: the solver failed.
    """
    sizes = [segment.size for segment in scan.layout]
    listed = [(tensor, cost) for tensor, row in enumerate(costs) for cost in row]
    tensor_of_choice = np.array([tensor for tensor, _ in listed])
    scores = scan.layout.extract(scan.scores).cpu().numpy().astype(np.float64)
    scale = _OBJECTIVE_SCALE / objective if objective > 0 else math.inf
    if (largest := float(scores.max(initial=0.0))) > 0:  # what fits may be worth far less than what does not
        scale = min(scale, _LARGEST_NUMBER / largest)
    scale = scale if math.isfinite(scale) else 1.0
    is_none = np.array([cost.encoding == Encoding.NONE for _, cost in listed])
    values = {
        "score": scores * scale,
        "size": (scores > 0).astype(float),
        "base": np.zeros(len(listed)),
        "price": 0.0,
        "allowed": np.ones(len(listed)),
        "span": np.where(is_none, 0.0, np.array(sizes, dtype=float)[tensor_of_choice]),
        "fixed": np.array([float(cost.fixed) for _, cost in listed]),
        "per_value": np.array([float(cost.per_value) for _, cost in listed]),
        "capacity": float(capacity),
    }
    pool_of_item = np.repeat(np.arange(len(sizes)), sizes)
    statement = state_budget(tensor_of_choice, tensor_of_choice, pool_of_item, values, integer_items=True)
    try:
        outcome = solve_statement(
            statement.problem,
            solver,
            absolute_gap=absolute_gap * scale,
            time_limit=time_limit,
            is_core=False,
        )
    except InvalidStatusError:
        return CoreSolution(None, math.inf, True, len(scores) + len(listed), 0.0, 0.0, has_failed=True)
    plan = None
    if outcome.has_solution:
        selected = np.split(statement.variables["x"].value, np.cumsum(sizes)[:-1])
        width = len(costs[0])
        taken = statement.variables["y"].value.reshape(len(sizes), width).argmax(axis=1)
        plan = Plan(tuple(round(float(part.sum())) for part in selected), tuple(taken.tolist()))
    return CoreSolution(
        plan,
        outcome.upper_bound / scale,
        outcome.is_finished,
        len(scores) + len(listed),
        outcome.building_seconds,
        outcome.solver_seconds,
    )
