"""The compiled sums and bit loops equal the torch operations, bit for bit."""

import random

import pytest
import torch

from fedpurin.exchange.sums import Groups, add_up, add_up_in_torch, unite, weigh
from fedpurin.exchange.wire.bits import compress, count, expand_into
from fedpurin.parallel import is_parallel
from fedpurin.space import pack_mask, unpack_mask


def make_masks(rows: int, words: int, density: float) -> torch.Tensor:
    return torch.stack([pack_mask(torch.rand(64 * words) < density) for _ in range(rows)])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
def test_sums_equal_on_cpu_and_in_torch(threads: int, seed: int) -> None:
    assert is_parallel() == (threads > 1)
    random.seed(seed)
    torch.manual_seed(seed)
    num_rows, words = random.randint(1, 9), random.choice([1, 3, 8, 9, 255, 257, 600, 2100])
    results = random.randint(1, num_rows)
    sent = make_masks(num_rows, words, random.choice([0, 0.1, 0.5, 1]))
    bits = torch.stack([unpack_mask(mask) for mask in sent])
    own = list(range(results))
    members = [[j for j in range(num_rows) if j != i and random.random() < 0.7] for i in own]
    groups = Groups(members)
    united = torch.stack([pack_mask(bits[rows].any(0) & bits[i]) for i, rows in zip(own, members, strict=True)])
    assert torch.equal(unite(sent, groups, own), united)
    for rows, kind in ((torch.randn(bits.shape) * bits, torch.float32), (bits.view(torch.uint8), torch.int16)):
        expected = torch.zeros(results, rows.shape[1], dtype=kind)
        for k in own:
            for row in members[k]:
                expected[k] += rows[row]
        assert torch.equal(add_up(rows, groups, torch.full_like(expected, 7)), expected)
        assert torch.equal(add_up_in_torch(rows, groups, torch.full_like(expected, 7)), expected)


def test_sums_by_hand() -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 0.0], [100.0, 0.0, 0.0]])
    for add in (add_up, add_up_in_torch):
        assert add(rows, Groups([[1, 2], []]), torch.empty(2, 3)).tolist() == [[110.0, 20.0, 0.0], [0.0, 0.0, 0.0]]
    assert weigh(rows, [1.0, 0.5, 0.25]).tolist() == [31.0, 12.0, 3.0]


def test_a_sum_runs_in_ascending_order_from_zero() -> None:
    """(2^24 + 1) + 1 loses both ones in float32, 1 + 1 first does not; and +0 + −0 is +0."""
    rows = torch.tensor([[2.0**24, -0.0], [1.0, -0.0], [1.0, -0.0]])
    for add in (add_up, add_up_in_torch):
        total = add(rows, Groups([[0, 1, 2], [1, 2]]), torch.empty(2, 2))
        assert total.tolist() == [[2.0**24, 0.0], [2.0, 0.0]]
        assert not total.signbit().any()


@pytest.mark.parametrize("words", [1, 2, 4096, 4097, 9000])
@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
def test_compress_and_expand_are_inverses(words: int, density: float) -> None:
    mask = torch.rand(64 * words) < density
    packed, vector = pack_mask(mask), torch.randn(64 * words)
    values = compress(vector, packed)
    assert torch.equal(values, vector[mask])
    target = torch.full_like(vector, 7.0)
    expand_into(target, packed, values)
    assert torch.equal(target, torch.where(mask, vector, 7.0))
    assert count(packed) == int(mask.sum())


def test_bits_survive_the_move() -> None:
    vector = torch.tensor([0.0, -0.0, 1e-45, float("nan")]).repeat(16)
    packed = pack_mask(torch.ones(64, dtype=torch.bool))
    assert torch.equal(compress(vector, packed).view(torch.int32), vector.view(torch.int32))


def test_expanding_the_wrong_number_of_values() -> None:
    with pytest.raises(ValueError, match="3 values for a mask of 64 positions"):
        expand_into(torch.zeros(64), pack_mask(torch.ones(64, dtype=torch.bool)), torch.zeros(3))


def test_unpacking_is_the_inverse_of_packing() -> None:
    mask = torch.rand(640) < 0.3
    assert torch.equal(unpack_mask(pack_mask(mask)), mask)
