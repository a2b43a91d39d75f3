"""Base of the methods whose clients share elements of their own choice: a mean over whoever sends an element.

With k_i the elements that client i shares, K_q = {i : q ∈ k_i} and s_i its weight:
    w_q ← Σ_{i∈K_q} s_i w_i,q / Σ_{i∈K_q} s_i,  unchanged where nobody sends        client i receives w at k_i
Values go up and come down sparse, with their index. The server's answer to a round comes down when the client is drawn
again, as most methods do it under partial participation, so that a client's own choice is up to date; in the first round
everybody holds the initial weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.config import ConfigError
from fedpurin.exchange import Exchange, Update
from fedpurin.local.client import Client
from fedpurin.methods.base import OPTIONS, Method, Round
from fedpurin.methods.weights import require_weights
from fedpurin.space import Layout, ParameterSpace, pack_mask, unpack_mask


@dataclass(kw_only=True, config=OPTIONS)
class Partial(Method):
    """A sparse mean. A method says what a client shares, and what becomes of its model and choice after the fits."""

    weighting: Literal["samples", "uniform"] = "uniform"

    def __post_init__(self) -> None:
        self._global: Tensor | None = None
        self._shared: Layout

    def shared_elements(self, client: Client) -> Bool[Tensor, " shared_length"]:
        """k_i; may be True in the padding, which nobody sends."""
        raise NotImplementedError

    def conclude(self, client: Client) -> None:
        """After the client's fits, before it sends."""

    def choose(self, client: Client) -> None:
        """After the upload: choose k_i anew. The answer comes at what it sent; of that it takes what it still shares."""

    def check(self, space: ParameterSpace, num_participants: int) -> None:
        require_weights(self, space)

    def begin(self, this_round: Round, exchange: Exchange, shared: Layout) -> None:
        self._shared = shared
        if self._global is None:
            self._global = exchange.common(this_round.clients[0].vector if this_round.clients else None)
            return
        # The server knows what a client sent last (`client.mask`); all goes to whoever has sent nothing yet.
        received_by = exchange.answer({client.id: Update(self._global, client.mask) for client in this_round.clients})
        for client in this_round.clients:
            received = received_by[client.id]
            part = client.vector[: shared.length]
            part.copy_(torch.where(self._elements(client) & unpack_mask(received.mask), received.vector, part))

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        assert self._global is not None, "begin has run"
        for client in this_round.clients:
            self.conclude(client)
        weights = this_round.num_train if self.weighting == "samples" else dict.fromkeys(this_round.ids, 1)
        for client in this_round.clients:
            client.mask = pack_mask(self._elements(client))
        updates = {client.id: Update(client.vector, client.mask) for client in this_round.clients}
        mean, senders = exchange.average_updates(updates, weights, divide_by="senders")
        self._global = torch.where(senders > 0, mean, self._global)
        for client in this_round.clients:
            self.choose(client)
        return {"update/density": float(senders.sum()) / self._shared.size}

    def merged(self, client: Client) -> Tensor:
        assert self._global is not None, "a round has ended"
        merged = client.vector.clone()
        part = merged[: len(self._global)]
        part.copy_(torch.where(self._elements(client), self._global, part))
        return merged

    def _elements(self, client: Client) -> Tensor:
        return self.shared_elements(client) & self._shared.parameter_mask(client.vector.device)

    def _is_accurate(self, client: Client, variant: str, least: float) -> bool:
        """Whether the client's accuracy, as last measured, allows to prune; 0 asks for none.

        Raises:
            ConfigError: the client has been measured, and by no accuracy.
        """
        if least == 0 or not client.metrics:
            return least == 0
        if (name := f"accuracy/{variant}") not in client.metrics:
            raise ConfigError(
                f"method={type(self).__name__} prunes from method.accuracy={least} on, and validation_step logs no "
                "'accuracy': log it there, or set method.accuracy=0"
            )
        return client.metrics[name] >= least

    def state_dict(self) -> dict[str, Any]:
        return {"global": self._global}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._global = state["global"]
