"""Who holds which sample: class skew × volume skew, exact counts, the same class proportions in train and test.

Owns: the rules `iid`, `dirichlet` and `pathological`, client sizes, and the deal. Does not own: the arithmetic of
whole numbers under a pool's limits (quotas.py), options and their ranges (config.py).

    iid            every client has the training pool's class proportions
    dirichlet      client i's proportions are drawn from Dir(α · 1) over the classes (Hsu et al. 2019, arXiv
                   1909.06335, draw from Dir(α · p), p the pool's proportions: the same where classes are equal)
    dirichlet_by_class   by_class.py: each class is dealt over the clients, and sizes follow
    pathological   every client holds `classes_per_client` classes in equal parts (McMahan et al. 2017); classes
                   are dealt in shuffled turns, so each goes to as many clients as any other, give or take one

Sizes follow `partition.volume`; a client's test size is in proportion to its training size. With
`disjoint: false` every client draws from the whole pool, without replacement. With `disjoint: true` clients
share the pool out: where their targets add up to more of a class than there is, all are rescaled a little
(`rescale_shares`), in training and test alike. No client ever holds a sample twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray

from fedpurin.config import ConfigError, PartitionConfig, VolumeConfig
from fedpurin.data.by_class import deal_by_class
from fedpurin.data.dataset import LabelledData
from fedpurin.data.natural import from_file, natural
from fedpurin.data.own import own_partition
from fedpurin.data.quotas import Counts, Shares, rescale_shares, round_counts, share_out
from fedpurin.seeding import numpy_generator

TOLERATED_SAMPLES, TOLERATED_SHARE = 2, 0.1
"""What a class may miss the training proportions by in a client's test data, where the test pool runs short: this
many samples or this share of the client's test data, whichever is more. Rounding alone stays below one sample."""


BY_CLASS = ("dirichlet", "dirichlet_by_class", "pathological")
"""Rules that need classes; the others count targets of any kind as one stratum."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Client i trains on samples `train[i]` and is tested on `test[i]`: ascending indices into the two pools."""

    train: tuple[NDArray[np.int64], ...]
    test: tuple[NDArray[np.int64], ...]
    class_counts: Int64[np.ndarray, "clients classes"]
    """Training samples; one column where targets are no classes."""
    test_class_counts: Int64[np.ndarray, "clients classes"]
    """Test samples."""

    @property
    def num_clients(self) -> int:
        return len(self.train)

    def summary(self) -> str:
        """One line: clients, their sizes, and how many classes they see."""
        classes = (self.class_counts > 0).sum(axis=1)
        return (
            f"{self.num_clients} clients, training samples {_range(self.class_counts.sum(axis=1))}, "
            f"test samples {_range(self.test_class_counts.sum(axis=1))}, classes {_range(classes)}"
        )


@dataclass(frozen=True, eq=False)
class _Pools:
    """Samples of each class in both pools."""

    train: Int64[np.ndarray, " classes"]
    test: Int64[np.ndarray, " classes"]


@dataclass(frozen=True, eq=False)
class _Target:
    """What the rules ask for, before any pool limits it."""

    shares: Float64[np.ndarray, "clients classes"]
    """Class proportions; rows sum to one."""
    allowed: Bool[np.ndarray, "clients classes"]
    """Classes that a client may hold."""
    weights: Float64[np.ndarray, " clients"]
    """Relative client sizes."""
    floor: int
    disjoint: bool

    def count(self, train_total: int, test_total: int, pools: _Pools) -> tuple[Counts, Counts] | None:
        """Training and test counts [clients, classes] with these totals; None if the pools cannot give them."""
        sizes = share_out(train_total, self.weights, self.floor)
        test_sizes = share_out(test_total, sizes.astype(np.float64), 1)
        counts, test_counts = np.zeros((2, *self.shares.shape), dtype=np.int64)
        clients = range(len(sizes))
        # Clients that take from one pool together: all of them, or each alone if they need not be disjoint.
        for group in [slice(None)] if self.disjoint else [slice(client, client + 1) for client in clients]:
            both = self._count_group(group, sizes[group], test_sizes[group], pools)
            if both is None:
                return None
            counts[group], test_counts[group] = both
        return counts, test_counts

    def _count_group(
        self, group: slice, sizes: Counts, test_sizes: Counts, pools: _Pools
    ) -> tuple[Counts, Counts] | None:
        allowed = self.allowed[group]
        # Test sizes are proportional to training sizes, so one bound on shares serves both pools. Half a sample a
        # client is what rounding the test counts moves anyway.
        test_capacity = (pools.test + len(sizes) / 2) * (sizes.sum() / test_sizes.sum())
        shares = rescale_shares(self.shares[group], sizes, np.minimum(pools.train, test_capacity), allowed)
        counts = round_counts(shares, sizes, pools.train, allowed)
        if counts is None:
            return None
        # From the counts that were dealt, not from the shares: nobody is tested on a class it did not train on,
        # unless there is no other way.
        dealt = counts / sizes[:, None]
        tolerance = np.maximum(TOLERATED_SAMPLES, TOLERATED_SHARE * test_sizes)
        for may_hold in (counts > 0, allowed):
            test_counts = round_counts(dealt, test_sizes, pools.test, may_hold)
            if (
                test_counts is not None
                and (np.abs(test_counts - dealt * test_sizes[:, None]).max(axis=1) <= tolerance).all()
            ):
                return counts, test_counts
        return None


def partition(config: PartitionConfig, data: LabelledData, seed: int) -> Partition:
    """Deal the samples of both pools to `partition.num_clients` clients, by `partition.seed` or else the run's `seed`.

    Raises:
        ConfigError: more clients than samples, counts above the pool, or a class rule that the data cannot meet.
    """
    seed = seed if config.seed is None else config.seed
    train_labels, test_labels = data.stratum_of(data.train), data.stratum_of(data.test)
    strata = len(data.strata)
    if not data.class_names and config.name in BY_CLASS:
        raise ConfigError(
            f"partition={config.name} deals by classes, and the targets of data={data.name} are no classes; choose iid, "
            "natural, file, or a function of your own (partition=custom)"
        )
    given = {"natural": natural, "file": from_file}
    if config.own or config.name in given:
        indices = own_partition(config, data, seed) if config.own else given[config.name](config, data)
        counted = (
            np.stack([np.bincount(labels[part], minlength=strata) for part in parts])
            for parts, labels in zip(indices, (train_labels, test_labels), strict=True)
        )
        return Partition(*indices, *counted)
    pools = _Pools(*(np.bincount(labels, minlength=strata) for labels in (train_labels, test_labels)))
    _check_sizes(config, int(pools.train.sum()), int(pools.test.sum()))
    if config.name == "dirichlet_by_class":
        generator = numpy_generator(seed, "partition/shares")
        counts, test_counts = deal_by_class(config, pools.train, pools.test, generator)
    else:
        counts, test_counts = _settle(config, _make_target(config, pools, seed), pools)
    return Partition(
        _deal(counts, train_labels, config.disjoint, numpy_generator(seed, "partition/train")),
        _deal(test_counts, test_labels, config.disjoint, numpy_generator(seed, "partition/test")),
        counts,
        test_counts,
    )


def _check_sizes(config: PartitionConfig, num_train: int, num_test: int) -> None:
    clients = config.num_clients
    for kind, option, each, pool in (
        ("training", "partition.train_per_client", config.train_per_client, num_train),
        ("test", "partition.test_per_client", config.test_per_client, num_test),
    ):
        if clients > pool and (config.disjoint or each is None):
            raise ConfigError(f"partition.num_clients={clients} is more than the {pool} {kind} samples; at most {pool}")
        if each is not None and config.disjoint and each * clients > pool:
            raise ConfigError(
                f"{option}={each} for {clients} disjoint clients needs {each * clients} {kind} samples; the pool has "
                f"{pool}: at most {pool // clients}, or partition.disjoint=false"
            )
        if each is not None and each > pool:
            raise ConfigError(f"{option}={each} is more than the pool's {pool} {kind} samples")
    floor, mean = config.volume.floor, config.train_per_client or num_train // clients
    if config.volume.name != "equal" and floor > mean:
        raise ConfigError(
            f"partition.volume.floor={floor} is more than the mean of {mean} training samples a client; at most {mean}"
        )


def _make_target(config: PartitionConfig, pools: _Pools, seed: int) -> _Target:
    generator = numpy_generator(seed, "partition/shares")
    clients, classes = config.num_clients, len(pools.train)
    usable = np.flatnonzero((pools.train > 0) & (pools.test > 0))
    shares = np.zeros((clients, classes))
    if config.name == "iid":
        shares[:, usable] = pools.train[usable] / pools.train[usable].sum()
    elif config.name == "dirichlet":
        alpha = min(config.alpha, 1e9)  # beyond, shares are equal to nine digits, and gamma draws overflow
        shares[:, usable] = generator.dirichlet(np.full(len(usable), alpha), size=clients)
    else:
        if config.classes_per_client > len(usable):
            raise ConfigError(
                f"partition.classes_per_client={config.classes_per_client} is more than the {len(usable)} classes "
                "that have both training and test samples"
            )
        chosen = _deal_classes(clients, usable, config.classes_per_client, generator)
        np.put_along_axis(shares, chosen, 1.0 / config.classes_per_client, axis=1)
    allowed = shares > 0
    if config.name == "dirichlet":
        allowed[:, usable] = True  # a share may be zero to the last bit at a small α, and still has to be rescaled
    weights, floor = _draw_weights(config.volume, clients, numpy_generator(seed, "partition/volume"))
    return _Target(shares, allowed, weights, floor, config.disjoint)


def _deal_classes(clients: int, usable: Counts, each: int, generator: np.random.Generator) -> Counts:
    """`each` different classes for every client [clients, each], all classes used equally often, give or take one."""
    uses = np.zeros(len(usable))
    chosen = np.empty((clients, each), dtype=np.int64)
    for client in range(clients):
        # Least used first, in an order shuffled anew for every client.
        order = np.lexsort((generator.random(len(usable)), uses))[:each]
        uses[order] += 1
        chosen[client] = usable[order]
    return chosen


def _draw_weights(volume: VolumeConfig, clients: int, generator: np.random.Generator) -> tuple[Shares, int]:
    """Relative client sizes and the least size; clients of equal size need no floor."""
    if volume.name == "lognormal":
        logs = volume.sigma * generator.standard_normal(clients)
        return np.exp(logs - logs.max()), volume.floor
    if volume.name == "powerlaw":
        return generator.permutation(np.arange(1, clients + 1) ** -volume.exponent), volume.floor
    return np.ones(clients), 1


def _settle(config: PartitionConfig, target: _Target, pools: _Pools) -> tuple[Counts, Counts]:
    """Counts for the totals that were asked for; a total that is null becomes the largest that the rules allow."""
    clients = config.num_clients
    asked_train, asked_test = (
        None if each is None else each * clients for each in (config.train_per_client, config.test_per_client)
    )
    all_train, all_test = (
        int(pool.sum()) if config.disjoint else int(pool.sum()) // clients * clients
        for pool in (pools.train, pools.test)
    )

    def fits(train_total: int, test_total: int) -> bool:
        return target.count(train_total, test_total, pools) is not None

    train_total = asked_train or _largest(
        lambda total: fits(total, asked_test or clients), target.floor * clients, all_train
    )
    test_total = asked_test or (train_total and _largest(lambda total: fits(train_total, total), clients, all_test))
    both = target.count(train_total, test_total, pools) if train_total and test_total else None
    if both is None:
        raise ConfigError(_explain(config, target, pools, fits))
    return both


def _largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number from `low` to `high` that fits, by bisection; 0 if there is none."""
    if high < low:
        return 0
    if fits(high):
        return high
    if not fits(low):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _explain(config: PartitionConfig, target: _Target, pools: _Pools, fits: Callable[[int, int], bool]) -> str:
    """Which per-client count cannot be met together with the class rule, and the largest that can."""
    clients, volume = config.num_clients, config.volume.name
    rule = {
        "iid": "partition=iid",
        "dirichlet": f"partition.alpha={config.alpha}",
        "pathological": f"partition.classes_per_client={config.classes_per_client}",
    }[config.name]
    rule += f", partition.disjoint={str(config.disjoint).lower()}"
    rule += "" if volume == "equal" else f" and partition.volume.name={volume}"
    train_each, test_each = config.train_per_client, config.test_per_client
    least = max(1, target.floor)
    most = _largest(lambda each: fits(each * clients, clients), least, train_each or least)
    if most < (train_each or least):
        option, pool, split = f"partition.train_per_client={train_each}", pools.train, "training"
    else:
        option, pool, split = f"partition.test_per_client={test_each}", pools.test, "test"
        most = _largest(lambda each: fits((train_each or least) * clients, each * clients), 1, test_each or 1)
    possible = f"at most {most} is possible" if most else "no number is possible"
    return (
        f"{option} cannot be met for {clients} clients with {rule}: {possible}\n"
        f"(classes have {pool.min()} to {pool.max()} {split} samples; training and test follow the same proportions)"
    )


def _deal(
    counts: Int64[np.ndarray, "clients classes"],
    labels: Int64[np.ndarray, " samples"],
    disjoint: bool,
    generator: np.random.Generator,
) -> tuple[NDArray[np.int64], ...]:
    """Draw `counts` samples without replacement: from a common pool, or each from the whole."""
    parts: list[list[NDArray[np.int64]]] = [[] for _ in counts]
    for label, column in enumerate(counts.T):
        members = np.flatnonzero(labels == label)
        if disjoint:
            drawn = np.split(generator.permutation(members)[: column.sum()], column.cumsum()[:-1])
        else:
            drawn = [generator.choice(members, count, replace=False) if count else members[:0] for count in column]
        for part, samples in zip(parts, drawn, strict=True):
            part.append(samples)
    return tuple(np.sort(np.concatenate(part)) for part in parts)


def _range(values: NDArray[np.int64]) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low}–{high}"
