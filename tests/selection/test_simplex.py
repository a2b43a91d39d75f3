"""The quadratic program over the simplex: against every support by hand, and the same bits whatever was solved before."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from fedpurin.selection import simplex
from fedpurin.selection.simplex import minimise_on_simplex


def draw(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    away = rng.normal(size=(count, 3)) * rng.uniform(0.01, 10)
    return np.diag(rng.uniform(0.01, 1, count)) + away @ away.T


def by_support(form: np.ndarray) -> np.ndarray:
    """The best of all supports, each a linear system."""
    best = np.eye(len(form))[0]
    for size in range(1, len(form) + 1):
        for support in map(list, combinations(range(len(form)), size)):
            alpha = np.zeros(len(form))
            alpha[support] = np.linalg.solve(form[np.ix_(support, support)], np.ones(size))
            alpha /= alpha.sum()
            if (alpha >= 0).all() and alpha @ form @ alpha < best @ form @ best:
                best = alpha
    return best


@pytest.mark.parametrize("seed", range(6))
def test_the_optimum(seed: int) -> None:
    form = draw(5, seed)
    assert minimise_on_simplex(form) == pytest.approx(by_support(form), abs=1e-6)


def test_by_hand() -> None:
    """Weights fall with the variance: 1/1 to 1/3; where nothing tells them apart all are equal."""
    assert minimise_on_simplex(np.diag([1.0, 3.0])) == pytest.approx([0.75, 0.25], abs=1e-9)
    assert minimise_on_simplex(np.zeros((4, 4))).tolist() == [0.25] * 4


def test_the_bits_do_not_depend_on_what_was_solved_before() -> None:
    forms = [draw(6, seed) for seed in range(4)]
    one_after_the_other = [minimise_on_simplex(form) for form in forms]
    for form, expected in zip(forms, one_after_the_other, strict=True):
        simplex._stated.cache_clear()
        assert (minimise_on_simplex(form) == expected).all()
