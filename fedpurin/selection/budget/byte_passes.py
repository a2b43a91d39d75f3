"""The reductions of `budget`: encodings that never pay, encodings and counts that the price of a byte rules out, and
value curves in a few pieces.

Owns what each pass fixes and how it is undone. Does not own the prices (`byte_prices.py`) or the pieces (`pieces.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedpurin.exchange.wire.costs import EncodingCost
from fedpurin.selection.reduction.instance import Choice, Instance, Plan
from fedpurin.selection.reduction.passes import Reduction, split_open_steps
from fedpurin.selection.reduction.pieces import cut_window


class DropDominated(Reduction):
    """Drop encodings that are never the smallest, whatever number of the tensor's scores is sent."""

    def accepts(self, instance: Instance) -> bool:
        return True

    def apply(self, instance: Instance) -> tuple[Instance, tuple[int, ...]]:
        kept = []
        for _, members in by_tensor(instance.choices):
            costs = [_cost(instance.choices[index]) for index in members]
            most = instance.choices[members[0]].high
            kept += [members[position] for position in smallest_somewhere(costs, most)]
        return _keep(instance, kept)

    def invert(self, plan: Plan, undo: tuple[int, ...]) -> Plan:
        return replace(plan, choice=tuple(undo[index] for index in plan.choice))


def smallest_somewhere(costs: Sequence[EncodingCost], most: int) -> list[int]:
    """Positions of the encodings that are the (first) smallest one for some count from 0 to `most`."""
    counts = {0, most}
    for one in costs:
        for other in costs:
            if one.per_value > other.per_value:  # lines cross here; which is smaller changes nowhere else
                crossing = (other.fixed - one.fixed) // (one.per_value - other.per_value)
                counts.update(count for count in range(crossing - 1, crossing + 3) if 0 <= count <= most)
    best = {min(range(len(costs)), key=lambda position: costs[position].size(count)) for count in counts}
    return sorted(best)


@dataclass(frozen=True, slots=True)
class _Offsets:
    choice: tuple[int, ...]
    low: tuple[int, ...]


class FixByBytePrice(Reduction):
    """Drop encodings, and close counts, whose loss at the price of a byte exceeds the duality gap.

    A solution better than the best one known loses at most the gap against the Lagrangian bound, in all tensors
    together, hence in each. What loses more is not part of it.
    """

    def accepts(self, instance: Instance) -> bool:
        return instance.prices is not None

    def apply(self, instance: Instance) -> tuple[Instance, _Offsets]:
        prices = instance.prices
        assert prices is not None
        lagrangian, gain = prices.lagrangian, prices.response.gain
        position = {
            (int(tensor), encoding): index
            for index, (tensor, encoding) in enumerate(zip(lagrangian.tensor, lagrangian.encodings, strict=True))
        }
        # The best of the choices that are left: an encoding dropped before may be ahead by a rounding error, and with
        # no slack that would close its whole tensor.
        left = [position[choice.tensor, _cost(choice).encoding] for choice in instance.choices]
        best = np.full(len(lagrangian.first), -np.inf)
        np.maximum.at(best, lagrangian.tensor[left], gain[left])
        allowance = prices.slack - (best[lagrangian.tensor] - gain)
        low, high = lagrangian.windows(prices.response, np.maximum(allowance, 0.0))
        kept, narrowed = [], list(instance.choices)
        for index, choice in enumerate(instance.choices):
            at = position[choice.tensor, _cost(choice).encoding]
            if allowance[at] >= 0:
                kept.append(index)
                narrowed[index] = replace(
                    choice,
                    low=max(int(low[at]), choice.low),
                    high=min(int(high[at]), choice.high),
                    centre=round(prices.response.count[at]),
                )
        reduced, _ = _keep(replace(instance, choices=tuple(narrowed)), kept)
        return reduced, _Offsets(tuple(kept), tuple(choice.low for choice in reduced.choices))

    def invert(self, plan: Plan, undo: _Offsets) -> Plan:
        counts = (count + undo.low[index] for count, index in zip(plan.count, plan.choice, strict=True))
        return Plan(tuple(counts), tuple(undo.choice[index] for index in plan.choice))


class FixByCapacity(Reduction):
    """Close counts, and drop encodings, that do not fit beside the least that the other tensors take.

    In integers, so that what binds is decided here and not within a solver's tolerance.
    """

    def accepts(self, instance: Instance) -> bool:
        return instance.capacity is not None

    def apply(self, instance: Instance) -> tuple[Instance, tuple[int, ...]]:
        assert instance.capacity is not None
        least = [
            min(_cost(instance.choices[index]).size(instance.choices[index].low) for index in members)
            for _, members in by_tensor(instance.choices)
        ]
        rest, kept, narrowed = instance.capacity - sum(least), [], list(instance.choices)
        if rest < 0:  # no plan of this instance fits: leave it to `BudgetSolver`, which says so
            return instance, tuple(range(len(instance.choices)))
        for (_, members), own in zip(by_tensor(instance.choices), least, strict=True):
            for index in members:
                choice, cost = instance.choices[index], _cost(instance.choices[index])
                left = rest + own - cost.size(choice.low)
                if left < 0:
                    continue
                kept.append(index)
                if cost.per_value:
                    narrowed[index] = replace(choice, high=min(choice.high, choice.low + left // cost.per_value))
        return _keep(replace(instance, choices=tuple(narrowed)), kept)

    def invert(self, plan: Plan, undo: tuple[int, ...]) -> Plan:
        return replace(plan, choice=tuple(undo[index] for index in plan.choice))


@dataclass(frozen=True)
class AggregateCurve(Reduction):
    """Replace the open scores of each choice by pieces of the value curve, which lie nowhere below it.

    With at most `max_exact` distinct open scores the pieces are these, and nothing is lost. Otherwise the optimum of
    what remains is an upper bound; `budget/program.py` solves again with pieces that are finer around the last solution.
    """

    max_intervals: int
    max_exact: int

    def accepts(self, instance: Instance) -> bool:
        return True

    def apply(self, instance: Instance) -> tuple[Instance, None]:
        open_scores = sum(choice.high - choice.low for choice in instance.choices)
        is_exact = open_scores <= self.max_exact
        if is_exact:
            instance = split_open_steps(instance)
        max_intervals = open_scores + 1 if is_exact else self.max_intervals
        choices = []
        for choice in instance.choices:
            curve, anchors = instance.curves[choice.tensor], instance.anchors[choice.tensor]
            high = min(choice.high, curve.num_scores)
            centre = choice.centre if choice.centre is not None else anchors[0]
            items = cut_window(curve, choice.low, high, centre, anchors, max_intervals)
            choices.append(replace(choice, items=items))
        return replace(instance, choices=tuple(choices)), None


def by_tensor(choices: Sequence[Choice]) -> list[tuple[int, list[int]]]:
    """Indices of the choices of each tensor."""
    members: dict[int, list[int]] = {}
    for index, choice in enumerate(choices):
        members.setdefault(choice.tensor, []).append(index)
    return list(members.items())


def _keep(instance: Instance, kept: list[int]) -> tuple[Instance, tuple[int, ...]]:
    return replace(instance, choices=tuple(instance.choices[index] for index in kept)), tuple(kept)


def _cost(choice: Choice) -> EncodingCost:
    assert choice.cost is not None
    return choice.cost
