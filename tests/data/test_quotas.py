"""Whole numbers under limits: hand-computed cases, and properties over random targets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpurin.data.quotas import largest_remainder, rescale_shares, round_counts, share_out


def test_largest_remainder_by_hand() -> None:
    targets = np.array([[1.5, 1.25, 0.25], [0.5, 0.5, 0.0], [2.0, 0.0, 0.0]])
    assert largest_remainder(targets, np.array([3, 1, 2])).tolist() == [[2, 1, 0], [1, 0, 0], [2, 0, 0]]


def test_share_out_by_hand() -> None:
    assert share_out(10, np.ones(3), 1).tolist() == [4, 3, 3]
    assert share_out(100, np.array([1.0, 1.0, 8.0]), 15).tolist() == [15, 15, 70]
    assert share_out(45, np.array([1.0, 1.0, 8.0]), 15).tolist() == [15, 15, 15]
    with pytest.raises(ValueError, match="3 floors of 15 add up to more than 44"):
        share_out(44, np.ones(3), 15)


@given(
    weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20),
    floor=st.integers(1, 20),
    extra=st.integers(0, 500),
)
def test_share_out_is_exact_above_the_floor_and_monotone(weights: list[float], floor: int, extra: int) -> None:
    total = floor * len(weights) + extra
    sizes = share_out(total, np.array(weights), floor)
    assert sizes.sum() == total
    assert sizes.min() >= floor
    order = np.argsort(weights)
    assert (np.diff(sizes[order]) >= -1).all()


def test_shares_that_fit_come_back_untouched() -> None:
    shares = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert rescale_shares(shares, np.array([10, 10]), np.array([11.0, 9.0]), np.ones((2, 2), bool)) is shares


def test_bending_by_hand() -> None:
    # Both want class 0 alone, of which there are 10 for 20: half and half is all that symmetry leaves.
    shares = np.array([[1.0, 0.0], [1.0, 0.0]])
    rescaled = rescale_shares(shares, np.array([10, 10]), np.array([10.0, 10.0]), np.ones((2, 2), bool))
    assert rescaled == pytest.approx(np.full((2, 2), 0.5), abs=1e-3)


def brute_force_exists(sizes: list[int], capacity: list[int], allowed: np.ndarray) -> bool:
    """Whether any counts with these row sums fit, by trying all."""
    rows = []
    for size, may in zip(sizes, allowed, strict=True):
        options = itertools.product(*(range(size + 1 if cell else 1) for cell in may))
        rows.append([option for option in options if sum(option) == size])
    return any((np.sum(choice, axis=0) <= capacity).all() for choice in itertools.product(*rows))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_counts_are_found_exactly_when_there_are_any(data: st.DataObject) -> None:
    clients, classes = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=clients, max_size=clients))
    capacity = data.draw(st.lists(st.integers(0, 6), min_size=classes, max_size=classes))
    cells = st.lists(st.booleans(), min_size=classes, max_size=classes).filter(any)
    allowed = np.array([data.draw(cells) for _ in range(clients)])
    shares = allowed / allowed.sum(axis=1, keepdims=True)
    counts = round_counts(shares, np.array(sizes), np.array(capacity), allowed)
    assert (counts is not None) == brute_force_exists(sizes, capacity, allowed)
    if counts is not None:
        assert counts.sum(axis=1).tolist() == sizes
        assert (counts.sum(axis=0) <= capacity).all()
        assert not counts[~allowed].any()
        assert counts.min() >= 0


@settings(max_examples=40, deadline=None)
@given(
    clients=st.integers(1, 30),
    classes=st.integers(2, 12),
    alpha=st.sampled_from([0.05, 0.5, 5.0]),
    seed=st.integers(0, 9),
)
def test_a_whole_pool_is_dealt_next_to_the_bent_shares(clients: int, classes: int, alpha: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.full(classes, alpha), size=clients)
    capacity = generator.integers(clients, 5 * clients + 1, size=classes)
    sizes = share_out(int(capacity.sum()), np.ones(clients), 1)
    allowed = np.ones((clients, classes), dtype=bool)
    rescaled = rescale_shares(shares, sizes, capacity.astype(float), allowed)
    counts = round_counts(rescaled, sizes, capacity, allowed)
    assert counts is not None
    assert counts.sum(axis=1).tolist() == sizes.tolist()
    assert counts.sum(axis=0).tolist() == capacity.tolist()
