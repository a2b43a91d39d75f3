"""FedALA (Zhang et al., AAAI 2023, arXiv 2212.01197, Algorithm 1): clients learn how much of the global model to take.

Shares and sends every trainable parameter, dense; keeps its own model Θ_i and the weights W_i. With θ the mean received:
    Θ̂_i = Θ_i + (θ − Θ_i) ⊙ W_i         W_i ← clip(W_i − η ∇F_i(Θ̂_i) ⊙ (θ − Θ_i), 0, 1)     ones at first
    Θ_i ← SGD on F_i from Θ̂_i           θ ← Σ_i (s_i / Σ_k s_k) Θ_i
The lower layers take θ as it is (W = 1). The paper learns W on a random s % of the data (80), at first until the losses of
ten epochs deviate by less than a threshold; here on all of it, at first for `first_epochs`, then one epoch a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from lightning import LightningModule
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.exchange import Exchange
from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS, Round, mix_in
from fedpurin.methods.fedavg import FedAvg
from fedpurin.space import ParameterSpace, Roles, Segment


@dataclass(kw_only=True, config=OPTIONS)
class FedALA(FedAvg):
    """FedAvg of `extra["global"]`; the client's own vector is Θ_i, `extra["weights"]` is W_i."""

    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """η, the learning rate of W."""
    upper_tensors: Annotated[int, Field(ge=0)] = 0
    """How many parameter tensors, from the output, have weights of their own; 0: all. The others take θ."""
    first_epochs: Annotated[int, Field(ge=1)] = 10
    """Epochs in which W is learned for the first time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._upper: Sequence[Segment] = ()

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        adapted: LightningModule = mix_in("lightning_modules.Aggregating", module)
        return adapted

    def check(self, space: ParameterSpace, num_participants: int) -> None:
        self._upper = space.layout.segments[-self.upper_tensors :]

    def copy_of_global(self, client: Client) -> Tensor:
        if "global" not in client.extra:
            client.extra["global"] = client.vector.clone()
        return client.extra["global"]

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        received = self.copy_of_global(client)
        if torch.equal(received, client.vector):  # its first round: nothing to choose between
            return (LocalFit(),)
        epochs = 1 if "weights" in client.extra else self.first_epochs
        if "weights" not in client.extra:
            client.extra["weights"] = torch.ones_like(client.vector)
        upper = {segment.name for segment in self._upper}
        learning = LocalFit(
            start="weights",
            keep=("weights",),
            trains=lambda segment: segment.name in upper,
            lr=self.rate,
            bounds=lambda segment: (0.0, 1.0),
            epochs=epochs,
            models={"local": client.vector.clone(), "global": received.clone()},
            purpose="fit/weights",
            scored=False,
        )
        return learning, LocalFit(prepare=_aggregate)

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        for client in this_round.clients:
            client.store("global", client.vector)  # what goes up, and is overwritten by the mean
        return super().communicate(this_round, exchange)

    def merged(self, client: Client) -> Tensor:
        return self.copy_of_global(client)


def _aggregate(client: Client) -> None:
    client.vector += (client.extra["global"] - client.vector) * client.extra["weights"]
