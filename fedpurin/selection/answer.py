"""What a program answers, before it becomes a mask: counts, what they are worth, and what bounds them.

Owns the rule by which a gap is called zero. Does not own the bounds: those are the programs' (`cardinality.py`,
`budget/program.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedpurin.exchange.wire.costs import Encoding
from fedpurin.selection.certificate import Status
from fedpurin.selection.reduction.curve import ValueCurve

RESOLUTION = 1e-9
"""Relative difference that a solver working in double precision cannot tell from zero."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Counts of a feasible solution with the curves that hold their thresholds, and the proof."""

    counts: tuple[int, ...]
    curves: Sequence[ValueCurve]
    objective: float
    upper_bound: float
    is_finished: bool
    """False where a time limit cut the solve short."""
    core_size: int
    building_seconds: float
    solver_seconds: float
    encodings: tuple[Encoding, ...] | None = None
    has_failed: bool = False
    """True where the solver called the program infeasible or unbounded: a known start, bounded by the prices."""


def close_gap(objective: float, bound: float) -> float:
    """The upper bound to report: the objective itself where the two differ by rounding alone."""
    return objective if bound - objective <= RESOLUTION * bound else bound


def relative_gap(objective: float, bound: float) -> float:
    return (bound - objective) / bound if bound > objective else 0.0


def name_status(gap: float, tolerance: float, is_finished: bool, has_failed: bool = False) -> Status:
    if has_failed:
        return "solver_failed"
    if gap == 0.0:
        return "optimal"
    if gap <= tolerance:
        return "within_tolerance"
    return "numerical_limit" if is_finished else "time_limit"
