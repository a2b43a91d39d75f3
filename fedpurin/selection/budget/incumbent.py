"""Feasible solutions of `budget`, found without a solver.

Owns the greedy fill for given encodings (scores by value per byte until the bytes are used up) and its improvement by
cheaper encodings. These are starts, and what a time limit falls back on; nothing is proved here.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedpurin.exchange.wire.costs import EncodingCost
from fedpurin.selection.budget.byte_prices import ByteLagrangian
from fedpurin.selection.reduction.curve import ValueCurve


@dataclass(frozen=True, slots=True)
class Incumbent:
    """Counts and encodings that fit the budget, and a lower bound of their objective (exact on exact curves)."""

    counts: tuple[int, ...]
    costs: tuple[EncodingCost, ...]
    objective: float

    @property
    def num_bytes(self) -> int:
        return sum(cost.size(count) for cost, count in zip(self.costs, self.counts, strict=True))


def evaluate(curves: Sequence[ValueCurve], counts: Sequence[int], costs: Sequence[EncodingCost]) -> Incumbent:
    objective = math.fsum(curve.value_at(count) for curve, count in zip(curves, counts, strict=True))
    return Incumbent(tuple(counts), tuple(costs), objective)


def fill_greedily(curves: Sequence[ValueCurve], costs: Sequence[EncodingCost], capacity: int) -> Incumbent | None:
    """Fill the budget under given encodings; None if their fixed charges alone exceed it."""
    if sum(cost.fixed for cost in costs) > capacity:
        return None
    lagrangian = ByteLagrangian(curves, [[cost] for cost in costs], capacity)
    _, response = lagrangian.minimise()
    counts = [int(count) for count in response.count]
    rest = capacity - sum(cost.size(count) for cost, count in zip(costs, counts, strict=True))
    # What the price leaves over goes to the next scores, the best per byte first.
    offers = (
        _offer(curve, cost, index, count)
        for index, (curve, cost, count) in enumerate(zip(curves, costs, counts, strict=True))
    )
    queue = [offer for offer in offers if offer is not None]
    heapq.heapify(queue)
    while queue:
        _, index, in_step = heapq.heappop(queue)
        per_value = costs[index].per_value
        taken = min(in_step, rest // per_value) if per_value else in_step
        counts[index] += taken
        rest -= taken * per_value
        if taken == in_step and (offer := _offer(curves[index], costs[index], index, counts[index])):
            heapq.heappush(queue, offer)
    return evaluate(curves, counts, costs)


def _offer(curve: ValueCurve, cost: EncodingCost, index: int, count: int) -> tuple[float, int, int] | None:
    """The tensor's next step: (−score per byte, tensor, scores left in the step)."""
    if count >= curve.num_scores:
        return None
    step = curve.step_at(count + 1)
    per_byte = curve.total[step] / curve.count[step] / cost.per_value if cost.per_value else math.inf
    return -float(per_byte), index, int(curve.num[step + 1]) - count


def improve_encodings(
    curves: Sequence[ValueCurve], costs: Sequence[Sequence[EncodingCost]], capacity: int, start: Incumbent
) -> Incumbent:
    """Give each tensor the smallest encoding of its count, spend what that frees, and repeat while it helps."""
    while True:
        cheapest = [
            min(listed, key=lambda cost: cost.size(count)) for listed, count in zip(costs, start.counts, strict=True)
        ]
        better = fill_greedily(curves, cheapest, capacity)
        if better is None or better.objective <= start.objective:
            return start
        start = better


def best_of(*candidates: Incumbent | None) -> Incumbent | None:
    found = [candidate for candidate in candidates if candidate is not None]
    return max(found, key=lambda candidate: candidate.objective, default=None)
