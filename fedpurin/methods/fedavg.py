"""FedAvg (McMahan et al., AISTATS 2017, Algorithm 1): one global model, the mean of the clients'.

Shares every trainable parameter; buffers (running statistics) stay with the client.
    w ← Σ_i (s_i / Σ_k s_k) w_i                                      over the round's participants

Base of every method that averages: they differ in what they share, how a client fits, or which of a client's
vectors is its copy of the global model, and override just that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.exchange import Exchange
from fedpurin.local.client import Client
from fedpurin.methods.base import OPTIONS, Method, Round
from fedpurin.space import Layout


@dataclass(kw_only=True, config=OPTIONS)
class FedAvg(Method):
    """Dense exchange: all shared parameters up, the mean down, once each for every participation.

    When everybody takes part, the mean goes down at the end of the round. Otherwise a participant would often hold
    a mean that is out of date before it trains again, so the present one (at first the initial weights) goes down when
    the client is drawn; until then `accuracy/merged` measures the mean as the server holds it.
    """

    weighting: Literal["samples", "uniform"] = "samples"
    """A client's weight in the mean: its number of training samples, or one."""

    def __post_init__(self) -> None:
        self._global: Tensor | None = None
        self._up_to_date: tuple[int, ...] = ()

    def copy_of_global(self, client: Client) -> Tensor:
        """The client's vector whose shared part is averaged: it sends this one, and the mean overwrites it."""
        return client.vector

    def begin(self, this_round: Round, exchange: Exchange, shared: Layout) -> None:
        behind = [client for client in this_round.clients if client.id not in self._up_to_date]
        if not behind or (self._global is None and len(this_round.ids) == this_round.num_clients):
            return  # when everybody takes part, the mean at the end of a round is its download
        present = self.copy_of_global(behind[0]) if self._global is None else self._global  # initial weights, or a mean
        received = exchange.download(present, [client.id for client in behind])
        for client in behind:
            self.copy_of_global(client)[: shared.length] = received

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        everybody = len(this_round.ids) == this_round.num_clients
        copies = {client.id: self.copy_of_global(client) for client in this_round.clients}
        weights = this_round.num_train if self.weighting == "samples" else dict.fromkeys(this_round.ids, 1)
        self._global = exchange.average(copies, weights, deliver=everybody)
        self._up_to_date = this_round.ids if everybody else ()
        for copy in copies.values() if not everybody else ():
            copy[: len(self._global)] = self._global
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"global": self._global, "up_to_date": self._up_to_date}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._global, self._up_to_date = state["global"], tuple(state["up_to_date"])
