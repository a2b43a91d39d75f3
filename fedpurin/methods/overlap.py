"""Who collaborates with whom, METHOD step 5, from packed masks alone.

Owns: overlap, the threshold θ_t, collaborators, and whether the horizon has closed. Does not own: sums of values
(`exchange/sums.py`, METHOD step 6), messages, processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from fedpurin.exchange.wire.bits import intersection_counts

Overlap = Literal["published", "dice"]


@dataclass(frozen=True)
class Collaboration:
    """The rule by which a method's masks settle who collaborates: what `Method.collaboration` returns."""

    overlap: Overlap
    horizon: int
    """β in rounds."""


def overlap_matrix(
    masks: UInt8[Tensor, "clients bytes"] | Sequence[UInt8[Tensor, " bytes"]], kind: Overlap
) -> Float64[np.ndarray, "clients clients"]:
    """O_ij of every ordered pair from the clients' packed masks; NaN on the diagonal and for empty masks.

    `published`: 1 − ‖m_i − m_j‖₁ / (2‖m_i‖₁), the paper's; not symmetric, and unbounded below when m_i is small.
    `dice`: 2‖m_i ∧ m_j‖₁ / (‖m_i‖₁ + ‖m_j‖₁). Counts are exact, so equal overlaps are equal numbers.
    """
    return overlap_of_counts(intersection_counts(masks), kind)


def overlap_of_counts(
    common: Int64[np.ndarray, "clients clients"], kind: Overlap
) -> Float64[np.ndarray, "clients clients"]:
    """`overlap_matrix` from ‖m_i ∧ m_j‖₁ of every pair, ‖m_i‖₁ on the diagonal."""
    sizes = np.diagonal(common).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "published":
            distance = sizes[:, None] + sizes[None, :] - 2.0 * common
            overlap = 1.0 - distance / (2.0 * sizes[:, None])
        elif kind == "dice":
            overlap = 2.0 * common / (sizes[:, None] + sizes[None, :])
        else:
            raise ValueError(f"method.overlap={kind!r} is not possible; choose published or dice")
    empty = sizes == 0
    overlap[empty, :] = np.nan
    overlap[:, empty] = np.nan
    np.fill_diagonal(overlap, np.nan)
    return overlap


def threshold(overlap: Float64[np.ndarray, "clients clients"], round_number: int, beta: float) -> float:
    """θ_t = Ō + (t+1)/β · (O_max − Ō) over the pairs that are not NaN; NaN where there is no pair."""
    pairs = overlap[~np.isnan(overlap)]
    if not pairs.size:
        return float("nan")
    highest = float(pairs.max())
    if pairs.min() == highest:
        return highest  # all equal: a mean of equal numbers may round, and must not shut everybody out
    mean, raised = float(pairs.mean()), (round_number + 1) / beta
    return highest if raised == 1 else mean + raised * (highest - mean)  # exactly the maximum at the horizon


def collaborators(
    overlap: Float64[np.ndarray, "clients clients"], ids: Sequence[int], round_number: int, beta: float
) -> dict[int, tuple[int, ...]]:
    """C_i of every participant: itself and each j with O_ij ≥ θ_t, ascending. Row and column k belong to `ids[k]`."""
    least = threshold(overlap, round_number, beta)
    with np.errstate(invalid="ignore"):
        joins = overlap >= least  # false wherever either side is NaN
    np.fill_diagonal(joins, True)
    return {
        client: tuple(sorted(ids[k] for k in np.flatnonzero(joins[row]).tolist())) for row, client in enumerate(ids)
    }


def horizon_closed(overlap: Float64[np.ndarray, "clients clients"], round_number: int, beta: float) -> bool:
    """Whether nobody can reach the threshold from this round on: (t+1) > β, and the overlaps are not all equal."""
    pairs = overlap[~np.isnan(overlap)]
    return round_number + 1 > beta and bool(pairs.size) and bool(pairs.min() < pairs.max())
