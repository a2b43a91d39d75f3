"""The critical-parameter programs as CVXPY states them. Read it next to docs/method.md, "Programs".

Each program is stated once, over *items* of tensors. An item is a score c_j that occurs u_j times; the solver picks
how many of them, x_j. With one item a parameter (u_j = 1, and 0 where the score is null) this is the program as
that page prints it: `reduce: false` solves it so. The reductions (`passes.py`) leave far fewer items, each standing
for many equal scores or for a piece of a value curve, and solve the very same statement.

What changes between two solves of a core is a `cp.Parameter`, and enters so that CVXPY compiles each shape once (its
DPP rules). For a full program, whose compiled form would need items² memory, it is a constant.

Owns the statements. Does not own what fills them, nor how they are solved (`solver.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Groups = NDArray[np.integer]  # the group that each item or choice belongs to
Values = Mapping[str, Any]  # numbers by name, as the statements' docstrings call them


@dataclass(frozen=True)
class Statement:
    """A stated program, its variables, and its parameters by name."""

    problem: Any
    variables: Mapping[str, Any]
    parameters: Mapping[str, Any]

    def fill(self, values: Values) -> None:
        """Set every parameter."""
        for name, parameter in self.parameters.items():
            parameter.value = values[name]


def state_layerwise(tensor_of_item: Groups, num_tensors: int, values: Values | None = None) -> Statement:
    """maximise Σ_j score_j x_j   subject to   Σ_{j∈l} x_j ≤ ceiling_l for every tensor l,   x_j ∈ {0, …, size_j}.

    The published rule: ceiling_l = ⌊τ n_l⌋.
    """
    numbers = _Numbers(values)
    score = numbers.declare("score", len(tensor_of_item))
    size = numbers.declare("size", len(tensor_of_item))
    ceiling = numbers.declare("ceiling", num_tensors)

    x = cp.Variable(len(tensor_of_item), integer=True, bounds=[0, None], name="x")
    selected = _sum_by(tensor_of_item, num_tensors) @ x
    problem = cp.Problem(
        cp.Maximize(score @ x),
        [
            x <= size,
            selected <= ceiling,
        ],
    )
    return Statement(problem, {"x": x}, numbers.parameters)


def state_global(
    tensor_of_item: Groups, num_tensors: int, values: Values | None = None, *, num_clients: int = 1
) -> Statement:
    """maximise Σ_j score_j x_j   subject to   Σ_j x_j ≤ total,   floor_l ≤ Σ_{j∈l} x_j ≤ ceiling_l for every tensor l,
    x_j ∈ {0, …, size_j}.

    total = ⌊τ n⌋. The density floor and ceiling of a tensor are optional (0 and n_l). Programs of several clients stand
    side by side: tensors are then the first client's, the second's and so on, and each client has its own total.
    """
    numbers = _Numbers(values)
    score = numbers.declare("score", len(tensor_of_item))
    size = numbers.declare("size", len(tensor_of_item))
    floor, ceiling = numbers.declare("floor", num_tensors), numbers.declare("ceiling", num_tensors)
    total = numbers.declare("total", num_clients)

    x = cp.Variable(len(tensor_of_item), integer=True, bounds=[0, None], name="x")
    selected = _sum_by(tensor_of_item, num_tensors) @ x
    problem = cp.Problem(
        cp.Maximize(score @ x),
        [
            x <= size,
            _sum_by(tensor_of_item // (num_tensors // num_clients), num_clients) @ x <= total,
            selected >= floor,
            selected <= ceiling,
        ],
    )
    return Statement(problem, {"x": x}, numbers.parameters)


def state_budget(
    tensor_of_choice: Groups,
    pool_of_choice: Groups,
    pool_of_item: Groups,
    values: Values | None = None,
    *,
    integer_items: bool,
) -> Statement:
    """maximise Σ_j score_j x_j + Σ_e base_e y_e − price · unused   over choices e = (tensor, encoding), subject to

        Σ_{e∈l} y_e = 1,   y_e ≤ allowed_e                 every tensor takes one encoding that is still possible
        Σ_{j∈p} x_j = Σ_{e∈p} k_e                          k_e values are sent under encoding e
        k_e ≤ room_e y_e,   x_j ≤ size_j Σ_{e∈p(j)} y_e    nothing under an encoding that is not taken
        Σ_e (fixed_e y_e + per_value_e k_e) + unused = capacity,   unused ≥ 0
        y_e ∈ {0, 1},   k_e, x_j integer and not negative

    The bytes of an encoding are a fixed charge and a price a value (`exchange/wire/costs.py`): a knapsack.

    The full program has one pool a tensor, shared by its encodings, one item a parameter, base = 0 and price = 0.
    The reduced one gives each encoding a pool of its own: an item then exists once for every encoding under which it is
    undecided, which makes the continuous relaxation as tight as the Lagrangian bound. There score and base are reduced
    costs at `price`, the dual price of a byte; the Lagrangian bound is a constant that leads back to the scores. Its
    items are pieces of a concave curve, so they may be continuous: k is what has to be whole.
    """
    num_tensors, num_pools = int(tensor_of_choice.max()) + 1, int(pool_of_choice.max()) + 1
    num_choices, num_items = len(tensor_of_choice), len(pool_of_item)
    numbers = _Numbers(values)
    score, size = numbers.declare("score", num_items), numbers.declare("size", num_items)
    base, allowed = numbers.declare("base", num_choices), numbers.declare("allowed", num_choices)
    span, fixed = numbers.declare("span", num_choices), numbers.declare("fixed", num_choices)
    per_value = numbers.declare("per_value", num_choices)
    price, capacity = numbers.declare("price"), numbers.declare("capacity")

    x = cp.Variable(num_items, integer=integer_items, bounds=[0, None], name="x")
    y = cp.Variable(num_choices, boolean=True, name="y")
    k = cp.Variable(num_choices, integer=True, bounds=[0, None], name="k")
    unused = cp.Variable(bounds=[0, None], name="unused")
    taken = _sum_by(tensor_of_choice, num_tensors) @ y
    sent = _sum_by(pool_of_choice, num_pools) @ k
    selected = _sum_by(pool_of_item, num_pools) @ x
    is_open = _sum_by(pool_of_item, num_pools).T @ (_sum_by(pool_of_choice, num_pools) @ y)
    problem = cp.Problem(
        cp.Maximize(score @ x + base @ y - price * unused),
        [
            taken == 1,
            y <= allowed,
            selected == sent,
            k <= cp.multiply(span, y),
            x <= cp.multiply(size, is_open),
            fixed @ y + per_value @ k + unused == capacity,
        ],
    )
    return Statement(problem, {"x": x, "y": y, "k": k}, numbers.parameters)


class _Numbers:
    """Declares a program's numbers: parameters to be filled, or constants where the values are given."""

    def __init__(self, values: Values | None) -> None:
        self.values = values
        self.parameters: dict[str, Any] = {}

    def declare(self, name: str, count: int | None = None) -> Any:
        if self.values is not None:
            return cp.Constant(self.values[name])
        self.parameters[name] = cp.Parameter(count, name=name) if count is not None else cp.Parameter(name=name)
        return self.parameters[name]


def _sum_by(group_of: Groups, num_groups: int) -> sp.csr_array:
    """The 0/1 matrix that adds up members by group: row g has a one for each member of g."""
    members = np.arange(len(group_of))
    shape = (num_groups, len(group_of))
    return sp.csr_array((np.ones(len(group_of)), (group_of, members)), shape=shape)
