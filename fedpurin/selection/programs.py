"""The critical-parameter programs of METHOD.md as CVXPY states them. Read it next to METHOD.md, "Programs".

Each program is stated once, over *items* of tensors. An item is a score c_j that occurs u_j times; the solver picks
how many of them, x_j. With one item a parameter (u_j = 1, and 0 where the score is null) this is the program as
METHOD.md prints it: `reduce: false` solves it so. The reductions (`passes.py`) leave far fewer items, each standing
for many equal scores or for a piece of a value curve, and solve the very same statement.

Whatever changes between two solves is a `cp.Parameter`, and enters so that CVXPY compiles each shape once (its DPP
rules). Owns the statements. Does not own what fills their parameters, nor how they are solved (`solver.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Groups = NDArray[np.integer]  # the group that each item or choice belongs to


@dataclass(frozen=True)
class CardinalityStatement:
    """`layerwise` and `global`: how many parameters may be critical."""

    problem: Any
    x: Any
    score: Any
    size: Any
    ceiling: Any
    floor: Any
    total: Any


def state_layerwise(tensor_of_item: Groups, num_tensors: int) -> CardinalityStatement:
    """maximise Σ_j c_j x_j   subject to   Σ_{j∈l} x_j ≤ ceiling_l for every tensor l,   x_j ∈ {0, …, u_j}.

    The published rule: ceiling_l = ⌊τ n_l⌋.
    """
    num_items = len(tensor_of_item)
    x = cp.Variable(num_items, integer=True, bounds=[0, None], name="x")
    c = cp.Parameter(num_items, nonneg=True, name="score")
    u = cp.Parameter(num_items, nonneg=True, name="size")
    ceiling = cp.Parameter(num_tensors, name="ceiling")

    selected = _sum_by(tensor_of_item, num_tensors) @ x
    problem = cp.Problem(cp.Maximize(c @ x), [x <= u, selected <= ceiling])
    return CardinalityStatement(problem, x, c, u, ceiling, floor=None, total=None)


def state_global(tensor_of_item: Groups, num_tensors: int) -> CardinalityStatement:
    """maximise Σ_j c_j x_j   subject to   Σ_j x_j ≤ total,   floor_l ≤ Σ_{j∈l} x_j ≤ ceiling_l,   x_j ∈ {0, …, u_j}.

    total = ⌊τ n⌋; the density floor and ceiling of every tensor are optional (0 and n_l).
    """
    num_items = len(tensor_of_item)
    x = cp.Variable(num_items, integer=True, bounds=[0, None], name="x")
    c = cp.Parameter(num_items, nonneg=True, name="score")
    u = cp.Parameter(num_items, nonneg=True, name="size")
    floor = cp.Parameter(num_tensors, name="floor")
    ceiling = cp.Parameter(num_tensors, name="ceiling")
    total = cp.Parameter(name="total")

    selected = _sum_by(tensor_of_item, num_tensors) @ x
    problem = cp.Problem(
        cp.Maximize(c @ x),
        [x <= u, cp.sum(x) <= total, selected >= floor, selected <= ceiling],
    )
    return CardinalityStatement(problem, x, c, u, ceiling, floor, total)


@dataclass(frozen=True)
class BudgetStatement:
    """`budget`: how many bytes the upload may have."""

    problem: Any
    x: Any
    y: Any
    k: Any
    score: Any
    size: Any
    base: Any
    allowed: Any
    room: Any
    fixed: Any
    per_value: Any
    price: Any
    capacity: Any


def state_budget(
    tensor_of_choice: Groups,
    pool_of_choice: Groups,
    pool_of_item: Groups,
    *,
    integer_items: bool,
) -> BudgetStatement:
    """maximise Σ_j c_j x_j + Σ_e b_e y_e − price · unused   over choices e = (tensor, encoding), subject to

        Σ_{e∈l} y_e = 1,   y_e ≤ allowed_e                 every tensor takes one encoding that is still possible
        Σ_{j∈p} x_j = Σ_{e∈p} k_e                          k_e values are sent under encoding e
        k_e ≤ room_e y_e,   x_j ≤ u_j Σ_{e∈p(j)} y_e       nothing under an encoding that is not taken
        Σ_e (fixed_e y_e + per_value_e k_e) + unused = capacity,   unused ≥ 0
        y_e ∈ {0, 1},   k_e, x_j integer and not negative

    The bytes of an encoding are a charge and a price a value (`exchange/costs.py`): METHOD.md's knapsack.
    The full program has one pool a tensor, shared by its encodings, one item a parameter, b = 0 and price = 0. The
    reduced one gives each encoding a pool of its own: an item then exists once for every encoding under which it is
    undecided, which makes the continuous relaxation as tight as the Lagrangian bound. There c and b are reduced
    costs at `price`, the dual price of a byte; the Lagrangian bound is a constant that leads back to the scores. Its
    items are pieces of a concave curve, so they may be continuous: k is what has to be whole.
    """
    num_tensors, num_pools = int(tensor_of_choice.max()) + 1, int(pool_of_choice.max()) + 1
    num_choices, num_items = len(tensor_of_choice), len(pool_of_item)
    x = cp.Variable(num_items, integer=integer_items, bounds=[0, None], name="x")
    y = cp.Variable(num_choices, boolean=True, name="y")
    k = cp.Variable(num_choices, integer=True, bounds=[0, None], name="k")
    unused = cp.Variable(bounds=[0, None], name="unused")
    c = cp.Parameter(num_items, name="score")
    u = cp.Parameter(num_items, nonneg=True, name="size")
    b = cp.Parameter(num_choices, name="base")
    allowed = cp.Parameter(num_choices, nonneg=True, name="allowed")
    room = cp.Parameter(num_choices, nonneg=True, name="room")
    fixed = cp.Parameter(num_choices, nonneg=True, name="fixed")
    per_value = cp.Parameter(num_choices, nonneg=True, name="per_value")
    price = cp.Parameter(nonneg=True, name="price")
    capacity = cp.Parameter(name="capacity")

    taken = _sum_by(tensor_of_choice, num_tensors) @ y
    sent = _sum_by(pool_of_choice, num_pools) @ k
    selected = _sum_by(pool_of_item, num_pools) @ x
    open_pools = _sum_by(pool_of_choice, num_pools) @ y
    problem = cp.Problem(
        cp.Maximize(c @ x + b @ y - price * unused),
        [
            taken == 1,
            y <= allowed,
            selected == sent,
            k <= cp.multiply(room, y),
            x <= cp.multiply(u, _sum_by(pool_of_item, num_pools).T @ open_pools),
            fixed @ y + per_value @ k + unused == capacity,
        ],
    )
    return BudgetStatement(problem, x, y, k, c, u, b, allowed, room, fixed, per_value, price, capacity)


def _sum_by(group_of: Groups, num_groups: int) -> sp.csr_array:
    """The 0/1 matrix that adds up members by group: row g has a one for each member of g."""
    members = np.arange(len(group_of))
    shape = (num_groups, len(group_of))
    return sp.csr_array((np.ones(len(group_of)), (group_of, members)), shape=shape)
