"""What a solve hands back: the mask, and the proof of how good it is.

Owns the two records `Certificate` and `Selection`. Computes nothing: the numbers come from the dual prices
(`prices.py`, `budget/program.py`) and from the solver (`solver.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, UInt8
from torch import Tensor

from fedpurin.exchange.wire.costs import Encoding

Status = Literal[
    "optimal", "within_tolerance", "time_limit", "numerical_limit", "solver_failed", "uncertified", "within_bound"
]


@dataclass(frozen=True, slots=True)
class Certificate:
    """How good a mask is, proved: no mask of this program has an objective above `upper_bound`."""

    status: Status
    """`optimal`: the gap is 0. `within_tolerance`: at most `program.gap_tolerance`. `time_limit`: stopped
    there, with the gap it had by then. `numerical_limit`: the solver's double precision closes it no further.
    `solver_failed`: it called the program infeasible or unbounded, which it cannot be; the mask is the best that was
    known before, the bound is the dual prices' own, and both hold. Of a program of the user's: `within_bound`, the bound
    is its own; `uncertified`, it gave none, and the bound is the sum of all scores."""
    objective: float
    """Sum of the selected scores, float64."""
    upper_bound: float
    """What no feasible mask can exceed."""
    gap: float
    """(upper_bound − objective) / upper_bound, 0 where the bound is 0."""
    num_selected: int
    num_null: int
    """Parameters whose score is null; none of them is selected."""
    core_size: int
    """Integer and binary variables that reached the solver, some of them shared with other clients that were solved together;
    without reduction, one a parameter."""
    reduction_seconds: float
    building_seconds: float
    solver_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class Selection:
    """A mask over a layout's vector, in both forms that the exchange needs, with its certificate."""

    packed: UInt8[Tensor, " packed"]
    """Parameter q in bit q % 8 of byte q // 8, as `space.pack_mask` packs; padding is 0."""
    mask: Bool[Tensor, " length"]
    certificate: Certificate
    encodings: tuple[Encoding, ...] | None = None
    """The encoding that the budget program planned for each tensor; None for the other programs."""
