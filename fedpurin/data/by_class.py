"""Each class dealt over the clients by Dir(α): the rule of PFLlib and of most papers on heterogeneous clients.

Owns: the draw of `partition=dirichlet_by_class` and its refusals. Does not own: which samples are dealt out
(partitions.py).

For class k, p_k ~ Dir(α · 1) over the clients; client i gets p_ki of its training and of its test samples, rounded by
largest remainder: splitting the pooled data would give the same expectation, and keeps no published test set apart.
Client sizes follow from the draw, so no volume is chosen; the whole draw is repeated until every client has at least
`partition.volume.floor` training samples and a test sample (Li et al., ICDE 2022, arXiv 2102.02079; their code has 10).
Their code and PFLlib besides leave a client out of further classes once it has the mean number of samples; ours does not.
"""

from __future__ import annotations

import numpy as np

from fedpurin.config import ConfigError, PartitionConfig
from fedpurin.data.quotas import Counts, largest_remainder

_MAX_DRAWS = 1000


def deal_by_class(
    config: PartitionConfig, train: Counts, test: Counts, generator: np.random.Generator
) -> tuple[Counts, Counts]:
    """Training and test counts [clients, classes] whose columns sum to `train` and `test`.

    Raises:
        ConfigError: options that this rule cannot honour, or no draw that gives everybody enough.
    """
    for option, given, needed in (
        ("train_per_client", config.train_per_client, None),
        ("test_per_client", config.test_per_client, None),
        ("disjoint", config.disjoint, True),
        ("volume.name", config.volume.name, "equal"),
    ):
        if given != needed:
            shown = "null" if needed is None else str(needed).lower()
            raise ConfigError(
                f"partition.{option}={given} is not possible with partition=dirichlet_by_class, whose draw decides the "
                f"clients' sizes: it must be {shown}"
            )
    floor, alpha = config.volume.floor, np.full(config.num_clients, min(config.alpha, 1e9))
    for _ in range(_MAX_DRAWS):
        shares = generator.dirichlet(alpha, size=len(train))
        counts, test_counts = (largest_remainder(shares * pool[:, None], pool).T for pool in (train, test))
        if counts.sum(axis=1).min() >= floor and test_counts.sum(axis=1).min() >= 1:
            return counts, test_counts
    raise ConfigError(
        f"partition.alpha={config.alpha} for {config.num_clients} clients: none of {_MAX_DRAWS} draws gave everybody "
        f"{floor} training samples (partition.volume.floor) and a test sample; take a larger alpha, a smaller floor or "
        "fewer clients"
    )
