"""The compiled sums and bit loops equal the torch operations, bit for bit."""

import random

import pytest
import torch

from fedpurin.exchange import sums_cpu, sums_torch
from fedpurin.exchange.groups import Groups
from fedpurin.exchange.wire import bits
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
    values = torch.randn(sum(map(count, sent)))
    own = list(range(results))
    groups = Groups.of([j for j in range(num_rows) if j != i and random.random() < 0.7] for i in own)
    at = sums_cpu.unions(sent, groups, own)
    assert torch.equal(at, sums_torch.unions(sent, groups, own))
    finished = random.choice([at, torch.zeros_like(at), at & make_masks(results, words, 0.5)])
    for divisors in (None, [random.randint(1, 9) for _ in own]):
        ours = sums_cpu.sums(sent, values, groups, own, at, finished, divisors)
        theirs = sums_torch.sums(sent, values, groups, own, at, finished, divisors)
        for mine, reference in zip((*ours[0], *ours[1]), (*theirs[0], *theirs[1]), strict=True):
            assert torch.equal(mine, reference)
        for k in own:
            part = torch.randn(64 * words)
            copy = part.clone()
            arguments = (sent[k], at[k], finished[k], ours[0][k], divisors and divisors[k], ours[1][k])
            sums_cpu.merge_own(part, *arguments)
            sums_torch.merge_own(copy, *arguments)
            assert torch.equal(part, copy)
    weights = torch.rand(num_rows)
    assert torch.equal(sums_cpu.weighted(sent, values, weights), sums_torch.weighted(sent, values, weights))


def test_a_sum_by_hand() -> None:
    sent = torch.stack([pack_mask(torch.arange(64) < end) for end in (3, 2, 1)])
    values = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 100.0])  # rows 0, 1 and 2 send 3, 2 and 1 values
    groups, at = Groups.of([[1, 2]]), sent[:1]
    total, _ = sums_cpu.sums(sent, values, groups, [0], at, torch.zeros_like(at), [3])
    assert total[0].tolist() == [110.0, 20.0, 0.0]
    mean, _ = sums_cpu.sums(sent, values, groups, [0], at, at, [3])
    assert mean[0].tolist() == [37.0, pytest.approx(22 / 3), 1.0]
    mean, counts = sums_cpu.sums(sent, values, groups, [0], at, pack_mask(torch.arange(64) < 2)[None], None)
    assert mean[0].tolist() == [37.0, 11.0, 0.0]
    assert counts[0].tolist() == [1]


@pytest.mark.parametrize("words", [1, 2, 4096, 4097, 9000])
@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
def test_compress_and_expand_are_inverses(
    threads: int, words: int, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bits, "CHUNK_WORDS", 4096)  # three pieces of the largest
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
