"""The reductions: small exact passes, each with accepts / apply / invert as in CVXPY's own chain.

`apply` turns an instance into a smaller one with the same best objective, or for `AggregateCurve` one that is not
below it; `invert` turns a plan of the smaller instance into one of the larger. Any pass can be left out: the
answer stays the same and the solver has more to do.

Here are the passes that all programs share. What fixes parameters by price is the programs' own: `cardinality.py`
and `budget/program.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fedpurin.selection.reduction.instance import Choice, Instance, Items, Plan, exact_steps


class Reduction(ABC):
    """One pass."""

    @abstractmethod
    def accepts(self, instance: Instance) -> bool:
        """Whether the pass has anything to do."""

    @abstractmethod
    def apply(self, instance: Instance) -> tuple[Instance, Any]:
        """The smaller instance, and what `invert` needs."""

    def invert(self, plan: Plan, undo: Any) -> Plan:
        """The plan of the instance that `apply` was given."""
        return plan


class Chain:
    """Passes in order; stacks what inversion needs and walks it back."""

    def __init__(self, passes: Sequence[Reduction]) -> None:
        self.passes = tuple(passes)

    def apply(self, instance: Instance) -> tuple[Instance, list[tuple[Reduction, Any]]]:
        stack = []
        for reduction in self.passes:
            if reduction.accepts(instance):
                instance, undo = reduction.apply(instance)
                stack.append((reduction, undo))
        return instance, stack

    @staticmethod
    def invert(plan: Plan, stack: list[tuple[Reduction, Any]]) -> Plan:
        for reduction, undo in reversed(stack):
            plan = reduction.invert(plan, undo)
        return plan


class DropNull(Reduction):
    """A null parameter is never critical: close the nulls at the end of every tensor's order."""

    def accepts(self, instance: Instance) -> bool:
        return any(choice.high > instance.curves[choice.tensor].num_scores for choice in instance.choices)

    def apply(self, instance: Instance) -> tuple[Instance, None]:
        closed = [
            replace(choice, high=min(choice.high, instance.curves[choice.tensor].num_scores))
            for choice in instance.choices
        ]
        return replace(instance, choices=tuple(closed)), None


class AggregateEqual(Reduction):
    """Equal scores of one tensor become one integer item. Coarse steps of the open part are split first."""

    def accepts(self, instance: Instance) -> bool:
        return True

    def apply(self, instance: Instance) -> tuple[Instance, None]:
        instance = split_open_steps(instance)
        return replace(instance, choices=tuple(self._aggregate(instance, c) for c in instance.choices)), None

    @staticmethod
    def _aggregate(instance: Instance, choice: Choice) -> Choice:
        curve = instance.curves[choice.tensor]
        score, size = exact_steps(curve, choice.low, min(choice.high, curve.num_scores))
        return replace(choice, items=Items(score, size))


def split_open_steps(instance: Instance) -> Instance:
    """Make the curves exact wherever a choice is open."""
    wanted: dict[int, set[int]] = {}
    for choice in instance.choices:
        curve = instance.curves[choice.tensor]
        high = min(choice.high, curve.num_scores)
        if choice.low < high:
            steps = range(curve.step_at(choice.low + 1), curve.step_at(high) + 1)
            wanted.setdefault(choice.tensor, set()).update(steps)
    return replace(instance, curves=tuple(instance.scan.refine(instance.curves, wanted)))
