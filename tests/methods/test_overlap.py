"""METHOD step 5: overlap, the bar, collaborators, on numbers worked out by hand and against loops."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedpurin.exchange.wire.bits import intersection_counts
from fedpurin.methods.overlap import collaborators, horizon_closed, overlap_matrix, threshold
from fedpurin.space import pack_mask
from tests.exchange import naive

NAN = float("nan")


def pack(*positions: int, length: int = 64) -> torch.Tensor:
    bits = torch.zeros(length, dtype=torch.bool)
    bits[list(positions)] = True
    return pack_mask(bits)


def test_overlap_by_hand() -> None:
    masks = [pack(0, 1, 2, 3), pack(2, 3), pack(9)]
    # |m| = 4, 2, 1; distances 2, 5, 3
    published = [[NAN, 1 - 2 / 8, 1 - 5 / 8], [1 - 2 / 4, NAN, 1 - 3 / 4], [1 - 5 / 2, 1 - 3 / 2, NAN]]
    dice = [[NAN, 4 / 6, 0], [4 / 6, NAN, 0], [0, 0, NAN]]
    np.testing.assert_array_equal(overlap_matrix(masks, "published"), published)
    np.testing.assert_array_equal(overlap_matrix(masks, "dice"), dice)


def test_equal_sizes_give_equal_overlaps_of_both_kinds() -> None:
    masks = [pack(0, 1, 2), pack(1, 2, 3), pack(2, 3, 4)]
    np.testing.assert_allclose(overlap_matrix(masks, "published"), overlap_matrix(masks, "dice"), rtol=1e-15)


def test_bar_rises_from_the_mean_to_the_maximum_and_past_it() -> None:
    overlap = np.array([[NAN, 0.75, 0.25], [0.5, NAN, 0.25], [0.0, 0.25, NAN]])  # mean 1/3, maximum 3/4
    assert threshold(overlap, 0, 4) == pytest.approx(1 / 3 + 1 / 4 * 5 / 12)
    assert collaborators(overlap, [3, 5, 8], 0, 4) == {3: (3, 5), 5: (3, 5), 8: (8,)}
    assert collaborators(overlap, [3, 5, 8], 3, 4) == {3: (3, 5), 5: (5,), 8: (8,)}  # exactly the maximum
    assert collaborators(overlap, [3, 5, 8], 4, 4) == {3: (3,), 5: (5,), 8: (8,)}
    assert [horizon_closed(overlap, round_number, 4) for round_number in (3, 4)] == [False, True]


def test_equal_overlaps_never_close() -> None:
    masks = [pack(0, 1, 2), pack(0, 3, 4), pack(0, 5, 6)]
    overlap = overlap_matrix(masks, "dice")
    assert not horizon_closed(overlap, 999, 4)
    assert collaborators(overlap, [0, 1, 2], 999, 4) == {0: (0, 1, 2), 1: (0, 1, 2), 2: (0, 1, 2)}


def test_empty_masks_collaborate_with_nobody_and_do_not_count() -> None:
    masks = [pack(0, 1), pack(), pack(1, 2)]
    overlap = overlap_matrix(masks, "published")
    assert np.isnan(overlap[1]).all()
    assert np.isnan(overlap[:, 1]).all()
    assert collaborators(overlap, [0, 1, 2], 0, 10) == {0: (0, 2), 1: (1,), 2: (0, 2)}
    assert collaborators(overlap_matrix([pack(), pack()], "dice"), [4, 7], 0, 10) == {4: (4,), 7: (7,)}
    assert collaborators(overlap_matrix([pack(1)], "dice"), [4], 0, 10) == {4: (4,)}


@pytest.mark.usefixtures("unchecked")
def test_unknown_overlap() -> None:
    with pytest.raises(ValueError, match="overlap='jaccard' is not possible"):
        overlap_matrix([pack(0)], "jaccard")  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.frozensets(st.integers(0, 63), max_size=20), min_size=1, max_size=6),
    st.sampled_from(["published", "dice"]),
    st.integers(0, 12),
)
def test_collaborators_equal_the_naive_twin(sets: list[frozenset[int]], kind: str, round_number: int) -> None:
    bits = {3 * k: [q in positions for q in range(64)] for k, positions in enumerate(sets)}
    masks = [pack(*positions) for positions in sets]
    overlap = overlap_matrix(masks, kind)  # type: ignore[arg-type]
    exact = naive.overlap(bits, kind)
    if exact and round_number != 9:  # a tie with the bar, other than at the maximum, is decided by rounding
        least = naive.bar(exact, round_number, 10)
        assume(len(set(exact.values())) == 1 or all(abs(value - least) > 1e-12 for value in exact.values()))
    assert collaborators(overlap, list(bits), round_number, 10) == naive.collaborators(bits, kind, round_number, 10)


def test_counting_bits_equals_the_matrix_product() -> None:
    bits = torch.stack([torch.rand(64 * 5000) < density for density in (0.0, 0.1, 0.5, 1.0)])
    masks = [pack_mask(row) for row in bits]
    counts = intersection_counts(masks)
    np.testing.assert_array_equal(counts, (bits.double() @ bits.double().T).numpy())
    for i, j in itertools.product(range(4), repeat=2):
        assert counts[i, j] == sum(int(byte).bit_count() for byte in (masks[i] & masks[j]).tolist())
