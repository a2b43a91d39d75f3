"""Every rule × volume × disjointness: exact counts, no sample twice, equal proportions, the same deal again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedpurin.config import ConfigError, PartitionConfig, VolumeConfig
from fedpurin.data import LabelledData, Partition, partition
from tests.data.conftest import MakeData

PROPERTIES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

rules = st.one_of(
    st.just({"name": "iid"}),
    st.builds(lambda alpha: {"name": "dirichlet", "alpha": alpha}, st.sampled_from([1e-3, 0.1, 0.5, 10.0, 1e6])),
    st.builds(lambda each: {"name": "pathological", "classes_per_client": each}, st.integers(1, 5)),
)
volumes = st.sampled_from(
    [VolumeConfig(), VolumeConfig(name="lognormal", floor=3), VolumeConfig(name="powerlaw", exponent=0.7, floor=3)]
)


def check(parts: Partition, data: LabelledData, disjoint: bool) -> None:
    """What holds for every partition."""
    for indices, counts, pool in (
        (parts.train, parts.class_counts, data.train),
        (parts.test, parts.test_class_counts, data.test),
    ):
        labels = pool.labels.numpy()
        for client, own in enumerate(indices):
            assert len(np.unique(own)) == len(own) > 0
            assert np.bincount(labels[own], minlength=data.num_classes).tolist() == counts[client].tolist()
        if disjoint:
            everything = np.concatenate(indices)
            assert len(np.unique(everything)) == len(everything)


def deviation(parts: Partition) -> np.ndarray:
    """Test counts minus what the training proportions would make of them, [clients, classes]."""
    shares = parts.class_counts / parts.class_counts.sum(axis=1, keepdims=True)
    return np.abs(parts.test_class_counts - shares * parts.test_class_counts.sum(axis=1, keepdims=True))


@PROPERTIES
@given(rule=rules, volume=volumes, clients=st.integers(1, 12), seed=st.integers(0, 3))
def test_disjoint_clients_share_the_pool(
    make_data: MakeData, rule: dict[str, Any], volume: VolumeConfig, clients: int, seed: int
) -> None:
    data = make_data([60] * 5, [20] * 5)
    parts = partition(PartitionConfig(num_clients=clients, volume=volume, **rule), data, seed)
    check(parts, data, disjoint=True)
    assert deviation(parts).max() <= max(2, 0.1 * parts.test_class_counts.sum(axis=1).max())
    if rule["name"] != "pathological":
        assert parts.class_counts.sum() == 300
        assert parts.test_class_counts.sum() == 100
    else:
        assert (parts.class_counts > 0).sum(axis=1).max() <= rule["classes_per_client"]
    if volume.name == "equal":
        sizes = parts.class_counts.sum(axis=1)
        assert sizes.max() - sizes.min() <= 1
    else:
        assert parts.class_counts.sum(axis=1).min() >= volume.floor


@PROPERTIES
@given(
    rule=rules, clients=st.integers(1, 30), train=st.integers(1, 60), test=st.integers(1, 20), seed=st.integers(0, 3)
)
def test_overlapping_clients_get_exact_counts(
    make_data: MakeData, rule: dict[str, Any], clients: int, train: int, test: int, seed: int
) -> None:
    data = make_data([60] * 5, [20] * 5)
    config = PartitionConfig(num_clients=clients, train_per_client=train, test_per_client=test, disjoint=False, **rule)
    parts = partition(config, data, seed)
    check(parts, data, disjoint=False)
    assert {len(own) for own in parts.train} == {train}
    assert {len(own) for own in parts.test} == {test}
    assert deviation(parts).max() < 1  # no pool runs short, so only rounding moves anything


@PROPERTIES
@given(rule=rules, seed=st.integers(0, 3), disjoint=st.booleans())
def test_the_seed_decides(make_data: MakeData, rule: dict[str, Any], seed: int, disjoint: bool) -> None:
    data = make_data([60] * 5, [20] * 5)
    config = PartitionConfig(num_clients=4, train_per_client=30, test_per_client=10, disjoint=disjoint, **rule)
    first, again, other = (partition(config, data, number) for number in (seed, seed, seed + 1))
    assert all(np.array_equal(a, b) for a, b in zip(first.train + first.test, again.train + again.test, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first.train, other.train, strict=True))


def test_a_seed_of_its_own_keeps_the_clients_whatever_the_run_s(make_data: MakeData) -> None:
    data = make_data([60] * 5, [20] * 5)
    own, free = (PartitionConfig(name="dirichlet", num_clients=4, train_per_client=30, seed=seed) for seed in (7, None))
    dealt = partition(own, data, 1).train
    for other in (partition(own, data, 2).train, partition(free, data, 7).train):
        assert all(np.array_equal(a, b) for a, b in zip(dealt, other, strict=True))


def test_iid_follows_an_unbalanced_pool(make_data: MakeData) -> None:
    parts = partition(PartitionConfig(name="iid", num_clients=4), make_data([80, 40], [20, 10]), 0)
    assert parts.class_counts.tolist() == [[20, 10]] * 4
    assert parts.test_class_counts.sum(axis=0).tolist() == [20, 10]


def test_pathological_uses_every_class_equally_often(make_data: MakeData) -> None:
    config = PartitionConfig(name="pathological", num_clients=5, classes_per_client=2)
    parts = partition(config, make_data([20] * 5, [10] * 5), 1)
    assert (parts.class_counts > 0).sum(axis=1).tolist() == [2] * 5
    assert (parts.class_counts > 0).sum(axis=0).tolist() == [2] * 5


def test_power_law_sizes_by_hand(make_data: MakeData) -> None:
    volume = VolumeConfig(name="powerlaw", exponent=1.0, floor=1)
    parts = partition(PartitionConfig(name="iid", num_clients=3, volume=volume), make_data([55, 55], [11, 11]), 0)
    assert sorted(parts.class_counts.sum(axis=1).tolist()) == [20, 30, 60]  # 110 · (1/3, 1/2, 1) / (11/6)
    assert sorted(parts.test_class_counts.sum(axis=1).tolist()) == [4, 6, 12]


def test_small_alpha_means_few_classes(make_data: MakeData) -> None:
    data = make_data([500] * 10, [100] * 10)
    few, many = (
        partition(
            PartitionConfig(
                name="dirichlet", alpha=alpha, num_clients=20, train_per_client=100, test_per_client=20, disjoint=False
            ),
            data,
            0,
        )
        for alpha in (0.05, 100.0)
    )
    assert (few.class_counts > 0).sum(axis=1).mean() < 4
    assert (many.class_counts > 0).sum(axis=1).min() == 10


def test_unlike_pools_leave_test_samples_out_rather_than_bend(make_data: MakeData) -> None:
    parts = partition(PartitionConfig(name="iid", num_clients=5), make_data([900, 100], [100, 100]), 0)
    assert parts.class_counts.tolist() == [[180, 20]] * 5
    assert deviation(parts).max() <= 2.5
    assert parts.test_class_counts[:, 0].sum() == 100


def test_summary(make_data: MakeData) -> None:
    parts = partition(PartitionConfig(name="iid", num_clients=3), make_data([10, 10], [3, 3]), 0)
    assert parts.summary() == "3 clients, training samples 6–7, test samples 2, classes 2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "iid", "num_clients": 301}, r"partition\.num_clients=301 is more than the 300 training samples"),
        ({"name": "iid", "num_clients": 101}, r"partition\.num_clients=101 is more than the 100 test samples"),
        (
            {"name": "iid", "num_clients": 10, "train_per_client": 31},
            r"partition\.train_per_client=31 for 10 disjoint clients needs 310 .* at most 30, or partition\.disj",
        ),
        (
            {"name": "iid", "num_clients": 2, "test_per_client": 101, "disjoint": False},
            r"partition\.test_per_client=101 is more than the pool's 100 test samples",
        ),
        (
            {"name": "pathological", "num_clients": 2, "classes_per_client": 6},
            r"partition\.classes_per_client=6 is more than the 5 classes",
        ),
        (
            {
                "name": "pathological",
                "num_clients": 5,
                "classes_per_client": 1,
                "train_per_client": 61,
                "disjoint": False,
            },
            r"partition\.train_per_client=61 cannot be met for 5 clients with partition\.classes_per_cl.*at most 60",
        ),
        (
            {"name": "pathological", "num_clients": 3, "classes_per_client": 1, "test_per_client": 21},
            r"partition\.test_per_client=21 cannot be met .* at most 20 is possible",
        ),
        (
            {"name": "iid", "num_clients": 10, "volume": VolumeConfig(name="powerlaw", floor=31)},
            r"partition\.volume\.floor=31 is more than the mean of 30 training samples",
        ),
    ],
)
def test_what_cannot_be_met_is_named(make_data: MakeData, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        partition(PartitionConfig(**options), make_data([60] * 5, [20] * 5), 0)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_client_larger_than_the_pool_is_named(make_data: MakeData) -> None:
    config = PartitionConfig(
        name="iid", num_clients=50, train_per_client=100, disjoint=False, volume=VolumeConfig(name="powerlaw")
    )
    with pytest.raises(ConfigError, match=r"partition\.train_per_client=100 .*volume\.name=powerlaw: at most \d+ is"):
        partition(config, make_data([60] * 5, [20] * 5), 0)


def test_each_class_is_dealt_over_the_clients_whole(make_data: MakeData) -> None:
    data = make_data([100, 60, 40], [20, 15, 10])
    config = PartitionConfig(name="dirichlet_by_class", num_clients=4, alpha=0.3)
    parts = partition(config, data, 0)
    check(parts, data, disjoint=True)
    assert parts.class_counts.sum(axis=0).tolist() == [100, 60, 40]
    assert parts.test_class_counts.sum(axis=0).tolist() == [20, 15, 10]
    assert parts.class_counts.sum(axis=1).min() >= 10
    shares, test_shares = parts.class_counts / [100, 60, 40], parts.test_class_counts / [20, 15, 10]
    assert np.abs(shares - test_shares).max() < 0.11  # one test sample of ten, and rounding


def test_a_rule_by_class_refuses_what_it_cannot_honour(make_data: MakeData) -> None:
    data = make_data([30, 30], [10, 10])
    with pytest.raises(ConfigError, match=r"partition\.train_per_client=5 .*must be null"):
        partition(PartitionConfig(name="dirichlet_by_class", num_clients=3, train_per_client=5), data, 0)
    with pytest.raises(ConfigError, match=r"none of 1000 draws gave everybody 10 training"):
        partition(PartitionConfig(name="dirichlet_by_class", num_clients=8), data, 0)
