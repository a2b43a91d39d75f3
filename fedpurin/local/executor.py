"""Who carries out fits and evaluations: the interface, and the executor that takes one client after the other.

Owns: blocks of clients that are handled together, the serial executor. Does not own: the steps of a fit (`trainer.py`),
many clients as one computation (`cohort.py`), which executor a run takes (`choice.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from jaxtyping import Float32
from torch import Tensor

from fedpurin.local.client import Client, FitResult
from fedpurin.local.fit import LocalFit
from fedpurin.local.trainer import LocalTrainer

Plan = Sequence[LocalFit]


class SerialExecutor:
    """One client at a time in the rank's live module. Works with every module that a client may have."""

    block = 1
    """Consecutive client ids that are handled together, and therefore live on one rank."""

    def __init__(self, trainer: LocalTrainer) -> None:
        self.trainer = trainer

    def blocks(self, clients: Iterable[Client]) -> Iterator[list[Client]]:
        """The clients, ascending by id, in blocks that configuration alone decides: never the number of ranks."""
        for _, members in groupby(clients, key=lambda client: client.id // self.block):
            yield list(members)

    def fit(self, clients: Sequence[Client], plans: Sequence[Plan], round_number: int) -> list[FitResult]:
        """Carry out each client's fits of one round, in order; a client's first fit that diverges is its last."""
        return [self.trainer.fit_all(client, plan, round_number) for client, plan in zip(clients, plans, strict=True)]

    def evaluate(
        self, clients: Sequence[Client], vectors: Sequence[Float32[Tensor, " length"]]
    ) -> list[Mapping[str, float]]:
        """Measure a vector for each client, with the client's running statistics, on its own test data."""
        measured: list[Mapping[str, float]] = []
        for client, vector in zip(clients, vectors, strict=True):
            self.trainer.load(client, vector)
            measured.append(self.trainer.evaluate())
        return measured
