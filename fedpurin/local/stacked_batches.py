"""Batches of many clients side by side, and a cohort's test batches, which stay the same and are kept.

Owns: which clients' batches make one, and for how long they are kept. Does not own: the batches (`data/`), what runs on them
(`cohort.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fedpurin.data import Pool, Samples
from fedpurin.local.client import Client
from fedpurin.local.trainer import length_of

KEPT_BYTES = 64 * 2**20
"""Of test batches, those of the cohorts that were measured last: a round measures each two or three times."""

Steps = list[tuple[list[int], Any]]


def by_length(batches: Sequence[Any]) -> Iterator[tuple[list[int], Any]]:
    """Batches of one length together, stacked: which ones, and [rows, batch, ...]."""
    alike: dict[int, list[int]] = {}
    for place, batch in enumerate(batches):
        alike.setdefault(length_of(batch), []).append(place)
    for places in alike.values():
        yield places, pytree.tree_map(lambda *rows: torch.stack(rows), *[batches[place] for place in places])


@dataclass
class _Kept:
    """A cohort's batches, with what must not have changed since they were drawn."""

    indices: list[Tensor]
    steps: Steps = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def add(self, step: tuple[list[int], Any]) -> None:
        leaves = pytree.tree_leaves(step[1])
        self.steps.append(step)
        self.leaves += leaves
        self.versions += [leaf._version for leaf in leaves]

    def is_unchanged(self, indices: Sequence[Tensor]) -> bool:
        """Whether these are the same clients' samples, and no `validation_step` has written into a batch."""
        return all(one is other for one, other in zip(self.indices, indices, strict=True)) and self.versions == [
            leaf._version for leaf in self.leaves
        ]

    @property
    def num_bytes(self) -> int:
        return sum(leaf.nbytes for leaf in self.leaves)


class StackedTests:
    """The test batches of cohorts, stacked. A user's own samples may differ each time, so they are not kept."""

    def __init__(self, pool: Samples, batch_size: int) -> None:
        self.pool, self.batch_size = pool, batch_size
        self._kept: OrderedDict[tuple[int, ...], _Kept] = OrderedDict()

    def of(self, clients: Sequence[Client]) -> Iterator[tuple[list[int], Any]]:
        """Which of the clients, and their batches, until everybody's are through."""
        if not isinstance(self.pool, Pool):
            yield from self._draw(clients)
            return
        key, indices = tuple(client.id for client in clients), [client.test_indices for client in clients]
        kept = self._kept.pop(key, None)
        if kept is None or not kept.is_unchanged(indices):
            kept = _Kept(indices)
            for step in self._draw(clients):
                kept.add(step)
                yield step
        else:
            yield from kept.steps
        self._kept[key] = kept
        while sum(kept.num_bytes for kept in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)

    def _draw(self, clients: Sequence[Client]) -> Iterator[tuple[list[int], Any]]:
        batches = [iter(self.pool.batches(client.test_indices, self.batch_size)) for client in clients]
        present = list(range(len(clients)))
        while present:
            drawn = [(k, batch) for k in present if (batch := next(batches[k], None)) is not None]
            present = [k for k, _ in drawn]
            for places, batch in by_length([batch for _, batch in drawn]):
                yield [present[place] for place in places], batch
