"""A program over the scores at hand, as the reductions pass it on: from whole tensors to a small core.

Owns the records `Choice`, `Limits`, `Instance` and `Plan`. Does not own how they are made smaller (`passes.py`) or stated
(`programs.py`).

An instance says, for every way to treat a tensor (a `Choice`; one a tensor, except for `budget`, which has one for
each encoding): the `low` largest scores are selected if this choice is taken, those after the `high` largest are not,
and what lies between is open. Which parameters these are follows from the counts alone: of equal scores the lower
index comes first. A solution is therefore a choice and a count for each tensor, a `Plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedpurin.exchange.wire.costs import EncodingCost
from fedpurin.selection.reduction.curve import Floats, ValueCurve
from fedpurin.selection.reduction.scan import Scan

if TYPE_CHECKING:
    from fedpurin.selection.budget.byte_prices import BytePrices


@dataclass(frozen=True, slots=True)
class Limits:
    """The best counts at the best price: `low` without the scores that equal it, `high` with all of them."""

    price: float
    low: tuple[int, ...]
    high: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Items:
    """What is open in a choice, in descending order of score: `size` parameters gain `score` each."""

    score: Floats
    size: Floats


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to treat a tensor; see the module's docstring. `items` is None until a pass forms them."""

    tensor: int
    low: int
    high: int
    cost: EncodingCost | None = None
    centre: int | None = None
    """The count of greatest gain at the price of a byte, once known (`budget`)."""
    items: Items | None = None


@dataclass(frozen=True)
class Instance:
    """Curves and choices, tensor by tensor, and the constraints of the program that is being solved."""

    scan: Scan
    curves: tuple[ValueCurve, ...]
    choices: tuple[Choice, ...]
    floor: tuple[int, ...] = ()
    """Least count of each tensor (`global`; zeros for `layerwise`)."""
    ceiling: tuple[int, ...] = ()
    """Greatest count of each tensor (`layerwise` and `global`)."""
    total: int | None = None
    """Greatest count of all tensors together (`global`)."""
    capacity: int | None = None
    """Bytes for all tensors together (`budget`)."""
    limits: Limits | None = None
    """The best price of a selection and its counts, once known (`layerwise` and `global`)."""
    prices: BytePrices | None = None
    """The best price of a byte and what is known at it, once known (`budget`)."""
    anchors: tuple[tuple[int, ...], ...] = ()
    """Counts of each tensor at which its curve has to be seen as it is: those of solutions found (`budget`)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A solution: how many scores of each tensor are selected, and by which of the instance's choices."""

    count: tuple[int, ...]
    choice: tuple[int, ...] = ()
    """Empty where every tensor has but one choice."""


def items_of(instance: Instance, choice: Choice) -> Items:
    """The choice's items; one for each open parameter if no pass has aggregated them."""
    if choice.items is not None:
        return choice.items
    curve = instance.curves[choice.tensor]
    score, size = exact_steps(curve, choice.low, min(choice.high, curve.num_scores))
    num_null = choice.high - max(choice.low, min(choice.high, curve.num_scores))
    score = np.repeat(score, size.astype(np.int64))
    nulls = np.zeros(num_null)
    return Items(np.concatenate((score, nulls)), np.concatenate((np.ones(len(score)), nulls)))


def exact_steps(curve: ValueCurve, low: int, high: int) -> tuple[Floats, Floats]:
    """Score and multiplicity of each distinct score after the `low` and up to the `high` largest."""
    if low >= high:
        return np.zeros(0), np.zeros(0)
    first, last = curve.step_at(low + 1), curve.step_at(high)
    if not np.array_equal(curve.top[first : last + 1], curve.bottom[first : last + 1]):
        raise AssertionError("the curve is coarse where single scores are needed")
    borders = np.clip(curve.num[first : last + 2], low, high)
    return curve.top[first : last + 1], np.diff(borders).astype(np.float64)
