"""The least value of a convex quadratic form over weights that are not negative and sum to one, stated in CVXPY.

Owns: the statement, its scale, and the accuracy asked of the solver. Does not own: what the form means (`fedpac.py`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cvxpy as cp
import numpy as np
from jaxtyping import Float64


def minimise_on_simplex(form: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, " n"]:
    """argmin αᵀPα with α ≥ 0 and Σα = 1, for a positive semidefinite P.

    Clarabel, an interior-point method, gives the same bits whenever it is asked the same, as long as it starts anew: by
    default CVXPY lets it go on with the scaling of the form before, which another rank or a resumed run has not seen.
    OSQP, which CVXPY would choose, adapts its steps by the clock.
    """
    values, vectors = np.linalg.eigh(form)
    largest = float(values.max())
    if largest <= 0.0 or len(form) == 1:
        return np.full(len(form), 1.0 / len(form))
    problem, alpha, root = _stated(len(form))
    root.value = np.sqrt(np.maximum(values, 0.0) / largest)[:, None] * vectors.T
    accuracy = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
    problem.solve(solver="CLARABEL", warm_start=False, **accuracy)
    weights = np.maximum(alpha.value, 0.0)
    scaled: Float64[np.ndarray, " n"] = weights / weights.sum()
    return scaled


@lru_cache(maxsize=4)
def _stated(count: int) -> tuple[Any, Any, Any]:
    """minimise ‖R α‖² subject to Σα = 1, α ≥ 0; R is a parameter, so that a size is compiled once."""
    alpha, root = cp.Variable(count, nonneg=True), cp.Parameter((count, count))
    return cp.Problem(cp.Minimize(cp.sum_squares(root @ alpha)), [cp.sum(alpha) == 1]), alpha, root
