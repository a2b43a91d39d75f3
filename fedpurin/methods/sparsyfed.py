"""SparsyFed (Guastella et al., ICLR 2025, arXiv 2504.05153): one sparse global model, by powers of what clients train.

A client trains v, with weights w = sign(v)·|v|^α (`lightning_modules/powered.py`), so that what is zero stays zero, and then
keeps the largest |v| of all weights together:
    v_i ← top_k(v_i)  goes up        v ← Σ_i (s_i / Σ_k s_k) v_i  comes down when a client is drawn again, where it is not zero
Biases and norms are neither powers nor pruned. The paper also prunes the activations that the backward pass reads, as much as
each layer's weights: that saves a device's work, not bytes, and is not done here. Checked against a copy of the authors'
code (weights, pruning, aggregation); the paper's form without a hyperparameter, α from the spectral norm, is not here.
`accuracy/personalized` measures the pruned model of the client, `accuracy/merged` the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from lightning import LightningModule
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.exchange import Exchange, Update
from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS, Method, Round, mix_in
from fedpurin.methods.weights import require_weights, weight_elements, weight_matrices
from fedpurin.space import Layout, ParameterSpace, Roles, pack_mask


@dataclass(kw_only=True, config=OPTIONS)
class SparsyFed(Method):
    """Sparse both ways. During a round a client's vector holds v, between rounds w."""

    density: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of all weights that a client keeps; the paper goes to 5 % and below."""
    alpha: Annotated[float, Field(ge=1)] = 1.25
    """α, the power; 1 is plain pruning."""
    weighting: Literal["samples", "uniform"] = "samples"

    def __post_init__(self) -> None:
        self._global: Tensor | None = None
        self._shared: Layout

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        adapted: LightningModule = mix_in("lightning_modules.Powered", module)
        return adapted

    def check(self, space: ParameterSpace, num_participants: int) -> None:
        require_weights(self, space)
        self._shared = space.shared

    def begin(self, this_round: Round, exchange: Exchange, shared: Layout) -> None:
        self._shared = shared
        if self._global is None:
            return  # everybody holds the initial v
        update = Update(self._global, pack_mask(self._global != 0))
        received = exchange.answer(dict.fromkeys((client.id for client in this_round.clients), update))
        for client in this_round.clients:
            client.vector.copy_(received[client.id].vector)

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        weights = weight_matrices(self._shared) if self.alpha != 1 else ()
        return (LocalFit(values={f"power/{segment.name}": self.alpha for segment in weights}),)

    def sit_out(self, client: Client) -> None:
        if self._global is not None:  # else w is the initial v, as it is when nobody has trained
            client.vector.copy_(self._powered(client.vector))

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        weights = this_round.num_train if self.weighting == "samples" else dict.fromkeys(this_round.ids, 1)
        updates = {}
        for client in this_round.clients:
            pruned = self._pruned(client.vector)
            updates[client.id] = Update(pruned, pack_mask(pruned != 0))
        self._global, senders = exchange.average_updates(updates, weights)
        for client in this_round.clients:
            client.vector.copy_(self._powered(self._global))
        return {"update/density": float(senders.sum()) / self._shared.size}

    def personalized(self, client: Client) -> Tensor:
        return self._powered(self._pruned(client.vector))

    def _pruned(self, values: Tensor) -> Tensor:
        """`values` without the smallest weights of all tensors together."""
        places = torch.nonzero(weight_elements(self._shared, values)).squeeze(1)
        count = len(places) - max(1, round(self.density * len(places)))
        pruned = values.clone()
        pruned[places[values[places].abs().topk(count, largest=False).indices]] = 0.0
        return pruned

    def _powered(self, values: Tensor) -> Tensor:
        powered = values.clone()
        for segment in weight_matrices(self._shared):
            part = values[segment.slice]
            powered[segment.slice] = part.sign() * part.abs().pow(self.alpha)
        return powered

    def state_dict(self) -> dict[str, Any]:
        return {"global": self._global}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._global = state["global"]
