"""Base of the methods that compress what FedAvg sends: updates instead of models, in fewer bytes.

Shares every trainable parameter. With w the model that all participants hold, w_i a client's after its fit:
    u_i = w_i − w (+ e_i)        c_i = C(u_i)  goes up        (e_i ← u_i − c_i,  error feedback, kept by the client)
    ū   = Σ_i (s_i / Σ_k s_k) c_i                             w ← w + D(ū),  D(ū) goes down
A method says what C and D are. Whoever missed a round, and in its first round whoever is drawn while others are not,
receives the model itself, dense, and so do all participants then: they must start from the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float32, UInt8
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.exchange import Exchange, Update
from fedpurin.exchange.wire.codes import Code
from fedpurin.local.client import Client
from fedpurin.methods.base import OPTIONS, Round
from fedpurin.methods.fedavg import FedAvg
from fedpurin.space import Layout, pack_mask, unpack_mask


@dataclass(kw_only=True, config=OPTIONS)
class Compressed(FedAvg):
    """FedAvg of compressed updates. The server's copy of the model is every participant's, bit for bit."""

    keeps_error: ClassVar[bool] = False
    """Error feedback: what compression lost is added to the client's next update (`extra["error"]`), and what coding the
    mean lost to the server's next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._error: Tensor | None = None

    def code(self) -> Code | None:
        """How values travel; None: as `exchange.value_dtype`."""
        return None

    def compress(self, client: Client, update: Float32[Tensor, " length"], this_round: Round) -> Update:
        """C: what a client sends of its update."""
        raise NotImplementedError

    def compress_mean(self, mean: Float32[Tensor, " length"], sent: Float32[Tensor, " length"]) -> Update:
        """D: what the server sends of the mean; `sent` is the share of the weights that sent a value. Default: all."""
        return Update(mean, pack_mask(sent > 0))

    def begin(self, this_round: Round, exchange: Exchange, shared: Layout) -> None:
        self._shared = shared
        if self._global is None:
            self._global = exchange.common(this_round.clients[0].vector if this_round.clients else None)
            if len(this_round.ids) == this_round.num_clients:
                self._up_to_date = this_round.ids  # everybody starts from the same weights
        if set(this_round.ids) <= set(self._up_to_date):
            return
        self._global = exchange.download(self._global, this_round.ids)
        for client in this_round.clients:
            client.vector[: shared.length] = self._global

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        assert self._global is not None, "begin has run"
        length, wanted, updates = self._shared.length, {}, {}
        for client in this_round.clients:
            wanted[client.id] = client.vector[:length] - self._global
            if self.keeps_error and "error" in client.extra:
                wanted[client.id] += client.extra["error"]
            updates[client.id] = self.compress(client, wanted[client.id], this_round)
        weights = this_round.num_train if self.weighting == "samples" else dict.fromkeys(this_round.ids, 1)
        total = sum(weights[client_id] for client_id in this_round.ids)
        mean, sent = torch.zeros_like(self._global), torch.zeros_like(self._global)
        own = {client.id: client for client in this_round.clients}
        for client_id, received in exchange.gather(updates, code=self.code()):
            share = weights[client_id] / total
            mean += share * received.vector
            sent += share * unpack_mask(received.mask)
            if self.keeps_error and client_id in own:
                own[client_id].store("error", wanted[client_id] - received.vector)
        if self._error is not None:
            mean += self._error
        down = self.compress_mean(mean, sent)
        arriving = exchange.rounded(down)
        if self.keeps_error and down.code is not None:
            self._error = mean - arriving
        everybody = len(this_round.ids) == this_round.num_clients
        if everybody:
            exchange.answer(dict.fromkeys(own, down))
        self._global = self._global + arriving
        self._up_to_date = this_round.ids if everybody else ()
        for client in this_round.clients:
            client.vector[:length] = self._global
        return {"update/density": float(sent.sum()) / self._shared.size}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"error": self._error}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._error = state["error"]


def largest(update: Float32[Tensor, " length"], share: float, layout: Layout) -> UInt8[Tensor, " packed"]:
    """The packed mask of the ⌊share·n⌋ entries (at least one) of largest magnitude, of all tensors together."""
    size = update.abs()
    size[~layout.parameter_mask(update.device)] = -1.0
    count = max(1, int(share * layout.size))
    mask = torch.zeros(len(size), dtype=torch.bool, device=size.device)
    mask[size.topk(count).indices] = True
    return pack_mask(mask)
