"""Dual prices of `layerwise` and `global`, what they fix, and the bound they prove.

With a price λ on each selection beyond the tensors' own limits (λ = 0 for `layerwise`, which has no total), no mask
has an objective above the Lagrangian bound

    λ · total + Σ_l max { V_l(k) − λ k : floor_l ≤ k ≤ ceiling_l }.

At the best λ the maximising counts are known except for scores that equal it. Hence every parameter is fixed whose
score differs from the last one selected in its tensor: its reduced cost has a sign, and the gap is zero. Only the
tied ones stay open.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from fedpurin.selection.reduction.curve import ValueCurve
from fedpurin.selection.reduction.instance import Instance, Limits, Plan
from fedpurin.selection.reduction.passes import Reduction

_INFINITY_BITS = 0x7F800000


class FixByPrice(Reduction):
    """Leave only the scores open that equal the last one selected in their tensor."""

    def accepts(self, instance: Instance) -> bool:
        return instance.limits is not None

    def apply(self, instance: Instance) -> tuple[Instance, tuple[int, ...]]:
        assert instance.limits is not None
        choices = []
        for choice in instance.choices:
            curve, count = instance.curves[choice.tensor], instance.limits.high[choice.tensor]
            step = curve.step_at(count) if count else -1
            low, high = (int(curve.num[step]), int(curve.num[step + 1])) if count else (0, 0)
            choices.append(replace(choice, low=low, high=high))
        lows = tuple(choice.low for choice in choices)
        reduced = replace(  # the reduced instance counts from `low` on
            instance,
            choices=tuple(choices),
            floor=tuple(max(floor - low, 0) for floor, low in zip(instance.floor, lows, strict=True)),
            ceiling=tuple(ceiling - low for ceiling, low in zip(instance.ceiling, lows, strict=True)),
            total=None if instance.total is None else instance.total - sum(lows),
        )
        return reduced, lows

    def invert(self, plan: Plan, undo: tuple[int, ...]) -> Plan:
        return replace(plan, count=tuple(count + low for count, low in zip(plan.count, undo, strict=True)))


def price_counts(instance: Instance, plan: Plan | None = None) -> Instance:
    """Add the best price and its counts, with curves that are exact around them, and around a plan's counts."""
    limits = instance.limits
    if limits is None:
        price = 0.0
        if instance.total is not None and sum(instance.ceiling) > instance.total:
            instance, price = _price_total(instance, instance.total)
        above = _counts_above(instance, price)
        below = _counts_above(instance, np.nextafter(np.float32(price), np.float32(0))) if price else above
        limits = Limits(price, tuple(above), tuple(below))
    marginal: dict[int, set[int]] = {}
    for counts in (limits.low, limits.high, plan.count if plan else ()):
        for index, count in enumerate(counts):
            if count:
                marginal.setdefault(index, set()).add(instance.curves[index].step_at(count))
    curves = tuple(instance.scan.refine(instance.curves, marginal))
    return replace(instance, curves=curves, limits=limits)


def excess_of_bound(instance: Instance, plan: Plan) -> float:
    """The Lagrangian bound minus the plan's objective: how far it is from complementary slackness, exactly 0 at it."""
    limits = instance.limits
    assert limits is not None
    excess = [] if instance.total is None else [limits.price * (instance.total - sum(plan.count))]
    for curve, count, low, high in zip(instance.curves, plan.count, limits.low, limits.high, strict=True):
        best = min(max(count, low), high)
        excess.append(curve.value_at(best) - curve.value_at(count) - limits.price * (best - count))
    return max(math.fsum(excess), 0.0)


def fill_ties(limits: Limits, total: int) -> Plan:
    """Take `total` selections; among scores equal to the price the lower index in the vector wins."""
    rest, counts = total - sum(limits.low), []
    for low, high in zip(limits.low, limits.high, strict=True):
        taken = min(rest, high - low)
        rest -= taken
        counts.append(low + taken)
    return Plan(tuple(counts))


def settle_ties(limits: Limits, plan: Plan) -> Plan:
    """Of all optimal plans, the one in which the lower index wins. A plan that is not optimal stays as it is."""
    bounds = zip(limits.low, plan.count, limits.high, strict=True)
    if all(low <= count <= high for low, count, high in bounds):
        return fill_ties(limits, sum(plan.count))
    return plan


def _price_total(instance: Instance, total: int) -> tuple[Instance, float]:
    """The smallest price at which the scores above it, within floors and ceilings, fit the total. It is a score."""
    while True:
        # Positive float32 numbers sort like their bit patterns; a coarse step that holds the price counts as below it.
        too_low, price_bits = 0, _INFINITY_BITS
        while price_bits - too_low > 1:
            middle = (too_low + price_bits) // 2
            fits = sum(_counts_above(instance, _from_bits(middle))) <= total
            too_low, price_bits = (too_low, middle) if fits else (middle, price_bits)
        price = _from_bits(price_bits)
        coarse = {index: [step] for index, step in _steps_at(instance.curves, price)}
        if not coarse:
            return instance, price
        instance = replace(instance, curves=tuple(instance.scan.refine(instance.curves, coarse)))


def _counts_above(instance: Instance, price: float) -> list[int]:
    """Scores of each tensor above a price, within its floor and ceiling."""
    bounds = zip(instance.curves, instance.floor, instance.ceiling, strict=True)
    return [min(max(int(curve.num[curve.step_above(price)]), least), most) for curve, least, most in bounds]


def _steps_at(curves: Iterable[ValueCurve], price: float) -> Iterable[tuple[int, int]]:
    """The coarse steps that hold the price: (tensor, step)."""
    for index, curve in enumerate(curves):
        step = curve.step_above(price)
        if step < curve.num_steps and curve.top[step] >= price and not curve.is_exact(step):
            yield index, step


def _from_bits(bits: int) -> float:
    return float(np.uint32(bits).view(np.float32))
