"""FedPURIN with error feedback: critical parameters stay with the client, and changes travel, sparse both ways.

Shares every trainable parameter but those of normalisation layers. With m_i the critical parameters (docs/method.md steps 2
and 3), w⁰_i and w_i the client's model before and after its fit, v the server's model (at first everybody's initial weights),
v_i what client i has received of it, and top_k the k entries of largest magnitude, k = ⌊density·n⌋ of all tensors together:
    u_i = w_i − w⁰_i + e_i        c_i = top_k(u_i) goes up         e_i ← u_i − c_i
    v ← v + Σ_i (s_i / Σ_k s_k) c_i
    d_i = top_k(v − v_i) comes down, k = ⌊download·n⌋               v_i ← v_i + d_i
    w_i ← m_i ⊙ w_i + (1 − m_i) ⊙ v_i  for a client of few classes; w_i ← v_i for the others
Nothing is lost on the way: e_i is what a client has yet to send, v − v_i what it has yet to receive, rounding on the wire
included. d_i comes down, and is merged, when the client is drawn again. Masks do not travel. A client has few classes where
the effective number of them, exp(−Σ_y p_y ln p_y) with the shares p_y of its samples, is at most `personal` of all.
With `bits` c_i and d_i are quantised (QSGD's Q, `fedpurin/exchange/wire/codes.py`), and what that loses waits like the rest.
Error feedback is Stich et al.'s (NeurIPS 2018), with Q Basu et al.'s (NeurIPS 2019, arXiv 1906.02367); that critical
parameters stay and the others are everybody's is what FedCAC does past its horizon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float32, Int64
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.exchange import Exchange, Update
from fedpurin.exchange.wire.codes import Stochastic
from fedpurin.local.client import Client
from fedpurin.methods.base import OPTIONS, Method, Round
from fedpurin.methods.compressed import largest
from fedpurin.seeding import torch_generator
from fedpurin.space import Layout, Segment, unpack_mask


@dataclass(kw_only=True, config=OPTIONS)
class FedPURINFeedback(Method):
    """Sparse both ways. A client keeps w⁰_i, e_i and v_i as `start`, `unsent` and `received` in its `extra`."""

    needs_masks: ClassVar[bool] = True

    density: Annotated[float, Field(gt=0, le=1)] = 0.12
    """Share of the parameters whose change a client sends."""
    download: Annotated[float, Field(gt=0, le=1)] = 0.12
    """Share of the parameters whose change a client receives."""
    personal: Annotated[float, Field(ge=0, le=1)] = 0.75
    """A client keeps its critical parameters where the effective number of its classes is at most this share of all: 0
    lets nobody keep any, 1 everybody. Where labels are no classes, only 0 lets nobody."""
    bits: Literal[4, 8] | None = None
    """Bits a value both ways, rounded at random, and four bytes for every 512 values; None: `exchange.value_dtype`."""
    weighting: Literal["samples", "uniform"] = "samples"
    """A client's weight in the server's model: its number of training samples, or one."""
    share_norm: bool = False

    def __post_init__(self) -> None:
        self._server: Tensor | None = None
        self._shared: Layout

    def shares(self, segment: Segment) -> bool:
        return self.share_norm or not segment.is_norm

    def begin(self, this_round: Round, exchange: Exchange, shared: Layout) -> None:
        self._shared = shared
        if self._server is None:
            self._server = exchange.common(this_round.clients[0].vector if this_round.clients else None)
        for client in this_round.clients:
            if "received" not in client.extra:  # it holds the initial weights
                client.store("received", client.vector[: shared.length])
                client.store("unsent", torch.zeros_like(client.extra["received"]))
        behind = [client for client in this_round.clients if not torch.equal(client.extra["received"], self._server)]
        arrived = exchange.answer({c.id: self._answer(c, self._draws(this_round, c.id, "down")) for c in behind})
        for client in this_round.clients:
            if client.id in arrived:
                client.store("received", client.extra["received"] + arrived[client.id].vector)
                client.vector.copy_(self._merge(client, client.extra["received"]))
            client.store("start", client.vector[: shared.length])

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        assert self._server is not None, "begin has run"
        own = {client.id: client for client in this_round.clients}
        changes, updates = {}, {}
        for i, client in own.items():
            changes[i] = client.vector[: self._shared.length] - client.extra["start"] + client.extra["unsent"]
            updates[i] = self._sparse(changes[i], self.density, self._draws(this_round, i, "up"))
        weights = this_round.num_train if self.weighting == "samples" else dict.fromkeys(this_round.ids, 1)
        total = sum(weights[client_id] for client_id in this_round.ids)
        server = self._server.clone()
        for client_id, received in exchange.gather(updates, code=self._code()):
            server += weights[client_id] / total * received.vector
            if client_id in own:
                own[client_id].store("unsent", changes[client_id] - received.vector)
        self._server = server
        keeping = exchange.processes.gather_objects([self._is_personal(client) for client in this_round.clients])
        return {"collaboration/keeping": sum(map(sum, keeping)) / len(this_round.ids)}

    def _answer(self, client: Client, draws: torch.Generator | None = None) -> Update:
        """d_i, the largest of what the client lacks of the server's model."""
        assert self._server is not None, "begin has run"
        return self._sparse(self._server - client.extra["received"], self.download, draws)

    def _sparse(self, change: Float32[Tensor, " shared_length"], share: float, draws: torch.Generator | None) -> Update:
        return Update(change, largest(change, share, self._shared), self._code(), draws)

    def _code(self) -> Stochastic | None:
        return None if self.bits is None else Stochastic(self.bits)

    def _draws(self, this_round: Round, client_id: int, way: str) -> torch.Generator:
        return torch_generator(this_round.seed, f"quantise/{way}", round_number=this_round.number, client=client_id)

    def _merge(self, client: Client, common: Float32[Tensor, " shared_length"]) -> Float32[Tensor, " length"]:
        """The client's own critical parameters, where it keeps them, and the common others."""
        merged = client.vector.clone()
        part = merged[: len(common)]
        if client.mask is not None and self._is_personal(client):  # no mask: it has not been fitted yet
            common = torch.where(unpack_mask(client.mask), part, common)
        part.copy_(common)
        return merged

    def _is_personal(self, client: Client) -> bool:
        return self.personal > 0 and effective_share(client.class_counts) <= self.personal

    def merged(self, client: Client) -> Tensor:
        """What the answer to this round makes of its model, before the answer is rounded on the wire."""
        answer = self._answer(client)
        assert answer.mask is not None, "an answer is sparse"
        arrives = torch.where(unpack_mask(answer.mask), answer.vector, 0.0)
        return self._merge(client, client.extra["received"] + arrives)

    def state_dict(self) -> dict[str, Any]:
        return {"server": self._server}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._server = state["server"]


def effective_share(class_counts: Int64[Tensor, " classes"] | None) -> float:
    """exp(entropy of a client's classes) over the number of all classes: 1 for equal parts; 0 where nobody knows."""
    if class_counts is None:
        return 0.0
    parts = class_counts.double() / class_counts.sum()
    entropy = -torch.special.xlogy(parts, parts).sum()
    return min(1.0, float(entropy.exp()) / len(class_counts))
