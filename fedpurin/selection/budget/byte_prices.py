"""The dual price of a byte: the Lagrangian of `budget`, what it fixes, and the bound it proves.

With a price λ on each byte, no mask that fits the budget has an objective above

    L(λ) = λ · capacity + Σ_l max over encodings e of { max_k V_l(k) − λ (fixed_e + per_value_e · k) }.

For a given λ the inner maximum needs no search: the scores above λ · per_value_e are worth their bytes. L is convex,
and the bytes that its maximiser uses fall as λ rises, so the best λ is found by bisection. What remains between L and
the best mask comes from the encodings' fixed charges, and is what the solver has to settle.

Owns this arithmetic, vectorised over all tensors and encodings. Does not own the masks that reach the bound
(`incumbent.py`) or what to do with the gap (`budget/program.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedpurin.compiled import njit
from fedpurin.exchange.wire.costs import EncodingCost
from fedpurin.selection.reduction.curve import Floats, Integers, ValueCurve


@dataclass(frozen=True)
class Response:
    """What maximises the Lagrangian at one price, for each (tensor, encoding)."""

    price: float
    gain: Floats
    """max_k V(k) − λ (fixed + per_value · k); where the curve is coarse there, an upper bound of it."""
    count: Floats
    """The maximising k."""
    step: Integers
    """The coarse step of the tensor's curve that the price falls into; −1 where the curve is exact there."""


@dataclass(frozen=True)
class BytePrices:
    """What the best price proves, beside the best solution known so far."""

    lagrangian: ByteLagrangian
    response: Response
    bound: float
    """L at the price, an upper bound of the objective."""
    lower_bound: float
    """The objective of a feasible solution."""

    @property
    def slack(self) -> float:
        """How much objective a choice may cost at the price and still belong to a better solution."""
        # The extra 1e-12 outweighs rounding in the sums; it keeps a little more open than has to be. Rounding can also
        # leave a bound of nothing below 0, and a negative slack would close every choice.
        return max(self.bound - self.lower_bound, 0.0) + 1e-12 * abs(self.bound)


class ByteLagrangian:
    """L(λ) for the curves at hand and a list of encodings by tensor. Tensors and encodings are in order."""

    def __init__(self, curves: Sequence[ValueCurve], costs: Sequence[Sequence[EncodingCost]], capacity: int) -> None:
        self.capacity = capacity
        self.tensor = np.repeat(np.arange(len(costs)), [len(listed) for listed in costs])
        self.first = np.concatenate(([0], np.cumsum([len(listed) for listed in costs])))[:-1]
        self.encodings = [cost.encoding for listed in costs for cost in listed]
        self.fixed = np.array([cost.fixed for listed in costs for cost in listed], dtype=np.float64)
        self.per_value = np.array([cost.per_value for listed in costs for cost in listed], dtype=np.float64)
        self._starts = np.concatenate(([0], np.cumsum([curve.num_steps for curve in curves]))).astype(np.int64)
        self._steps = tuple(
            np.concatenate([getattr(curve, name) for curve in curves])
            for name in ("top", "bottom", "count", "total", "num", "value")
        )

    def respond(self, price: float) -> Response:
        gain, count = np.empty(len(self.tensor)), np.empty(len(self.tensor))
        step = np.empty(len(self.tensor), dtype=np.int64)
        _respond(price, self.tensor, self.fixed, self.per_value, self._starts, *self._steps, gain, count, step)
        return Response(price, gain, count, step)

    def best(self, response: Response) -> Integers:
        """For each tensor the (tensor, encoding) of greatest gain; of equal gains the one with fewer bytes."""
        used = self.used(response)
        order = np.lexsort((used, -response.gain, self.tensor))
        return order[self.first]

    def used(self, response: Response) -> Floats:
        return self.fixed + self.per_value * response.count

    def bound(self, response: Response) -> float:
        return response.price * self.capacity + float(np.maximum.reduceat(response.gain, self.first).sum())

    def minimise(self) -> tuple[Response, Response]:
        """The two prices next to each other between which the bytes pass the capacity: too many, and few enough.

        Twice the same response at price 0 where everything fits.
        """
        response = self.respond(0.0)
        if self._fits(response):
            return response, response
        dearest = max(float(self._steps[0].max(initial=0.0)), 1e-300)
        least = self.per_value[self.per_value > 0].min(initial=1.0)
        too_low, high_enough = 0, int(np.float64(2.0 * dearest / least).view(np.int64))
        while high_enough - too_low > 1:  # positive float64 numbers sort like their bit patterns
            middle = (too_low + high_enough) // 2
            if self._fits(self.respond(_from_bits(middle))):
                high_enough = middle
            else:
                too_low = middle
        return self.respond(_from_bits(too_low)), self.respond(_from_bits(high_enough))

    def _fits(self, response: Response) -> bool:
        return float(self.used(response)[self.best(response)].sum()) <= self.capacity

    def windows(self, response: Response, allowance: Floats) -> tuple[Integers, Integers]:
        """For each (tensor, encoding) the counts whose gain is within `allowance` (≥ 0) of the greatest: from, to."""
        low, high = np.empty(len(self.tensor), dtype=np.int64), np.empty(len(self.tensor), dtype=np.int64)
        need = response.gain + response.price * self.fixed - allowance
        _windows(response.price, need, self.tensor, self.per_value, self._starts, *self._steps, low, high)
        return low, high


def _from_bits(bits: int) -> float:
    return float(np.int64(bits).view(np.float64))


@njit()
def _step_of_price(price: float, bottom: Floats, start: int, stop: int) -> int:
    """The first step of [start, stop) that has a score below the price; `stop` if none has."""
    while start < stop:
        middle = (start + stop) // 2
        if bottom[middle] < price:
            stop = middle
        else:
            start = middle + 1
    return start


@njit()
def _respond(
    price: float,
    tensor: Integers,
    fixed: Floats,
    per_value: Floats,
    starts: Integers,
    top: Floats,
    bottom: Floats,
    count: Integers,
    total: Floats,
    num: Integers,
    value: Floats,
    gain_out: Floats,
    count_out: Floats,
    step_out: Integers,
) -> None:
    for choice in range(len(tensor)):
        start, stop = starts[tensor[choice]], starts[tensor[choice] + 1]
        score = price * per_value[choice]
        step = _step_of_price(score, bottom, start, stop)
        border = step + tensor[choice]  # each tensor has one border more than it has steps
        gain, taken = value[border] - score * num[border], float(num[border])
        step_out[choice] = -1
        if step < stop and top[step] > score:
            # The curve is under the two lines that enclose the step; at their corner the gain is greatest.
            corner = (total[step] - bottom[step] * count[step]) / (top[step] - bottom[step])
            gain += corner * (top[step] - score)
            taken += corner
            step_out[choice] = step - start
        gain_out[choice] = gain - price * fixed[choice]
        count_out[choice] = taken


@njit()
def _windows(
    price: float,
    need: Floats,
    tensor: Integers,
    per_value: Floats,
    starts: Integers,
    top: Floats,
    bottom: Floats,
    count: Integers,
    total: Floats,
    num: Integers,
    value: Floats,
    low_out: Integers,
    high_out: Integers,
) -> None:
    for choice in range(len(tensor)):
        start, stop = starts[tensor[choice]], starts[tensor[choice] + 1]
        score = price * per_value[choice]
        step = _step_of_price(score, bottom, start, stop)
        shift = tensor[choice]
        # V(k) − score · k rises up to the step and falls after it: search each side for the last border that
        # is too poor; what is beyond it is poorer.
        left, right = start, step  # borders [start, step]: the first that is rich enough
        while left < right:
            middle = (left + right) // 2
            if value[middle + shift] - score * num[middle + shift] < need[choice]:
                left = middle + 1
            else:
                right = middle
        low_out[choice] = num[max(left - 1, start) + shift]
        left, right = min(step + 1, stop), stop  # borders [step + 1, stop]: the first that is too poor
        while left < right:
            middle = (left + right) // 2
            if value[middle + shift] - score * num[middle + shift] < need[choice]:
                right = middle
            else:
                left = middle + 1
        high_out[choice] = num[left + shift]
