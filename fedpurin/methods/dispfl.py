"""DisPFL (Dai et al., ICML 2022, arXiv 2206.00187, Algorithm 1): sparse personal models, exchanged from client to client.

There is no server. A client trains the elements of its mask m_i, as in FedSpa, and sends w_i ⊙ m_i to those who chose it.
With N_i its `neighbours` and itself, and m⁺ a mask that has moved since (pruned by magnitude, regrown by gradient):
    w_i ← m_i⁺ ⊙ Σ_{j∈N_i} w_j ⊙ m_j / Σ_{j∈N_i} m_j,  0 where nobody has the element
Neighbours are drawn anew every round among its participants, as the authors do, or are those of a ring, or all. Each
message counts up with its sender, once for every receiver, and down with each receiver.
The paper's round begins with this exchange, ours ends with it: the same sequence but for the first. Masks start at random,
one a client (the authors' code can give all the same), with the same density in each tensor (theirs is higher in small
ones: ERK); the gradient is that of the fit's last mini-batch, where they take another. Biases and norms are always kept;
gradients are not clipped (theirs are, at 10).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.exchange import Exchange, Update
from fedpurin.local.client import Client
from fedpurin.methods.base import OPTIONS, Round
from fedpurin.methods.fedspa import FedSpa
from fedpurin.seeding import numpy_generator
from fedpurin.space import Layout, pack_mask, unpack_mask


@dataclass(kw_only=True, config=OPTIONS)
class DisPFL(FedSpa):
    """FedSpa's moving masks without a server; `extra["kept"]` is m_i."""

    weighting: Literal["uniform"] = "uniform"
    """The paper's mean over neighbours has no weights."""
    neighbours: Annotated[int, Field(ge=1)] = 10
    """Clients that a client receives from (`topology: random`)."""
    topology: Literal["random", "ring", "full"] = "random"

    def begin(self, this_round: Round, exchange: Exchange, shared: Layout) -> None:
        self._shared = shared
        for client in this_round.clients:
            if "kept" not in client.extra:
                client.extra["kept"] = self._random_mask(client, this_round.seed)
                client.vector *= client.extra["kept"]

    def senders(self, this_round: Round) -> dict[int, tuple[int, ...]]:
        """Of every participant, the others that it receives from, ascending; the same on every rank."""
        return {client_id: self._senders(client_id, this_round) for client_id in this_round.ids}

    def _senders(self, client_id: int, this_round: Round) -> tuple[int, ...]:
        others: Sequence[int] = [other for other in this_round.ids if other != client_id]
        if self.topology == "ring":
            place = this_round.ids.index(client_id)
            beside = (this_round.ids[place - 1], this_round.ids[(place + 1) % len(this_round.ids)])
            return tuple(sorted({*beside} - {client_id}))
        if self.topology == "full" or len(others) <= self.neighbours:
            return tuple(others)
        draws = numpy_generator(this_round.seed, "neighbours", round_number=this_round.number, client=client_id)
        return tuple(sorted(int(other) for other in draws.choice(others, size=self.neighbours, replace=False)))

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        senders = self.senders(this_round)
        updates = {client.id: Update(client.vector, pack_mask(self._elements(client))) for client in this_round.clients}
        sums = {client.id: torch.zeros_like(client.vector) for client in this_round.clients}
        counts = {client.id: torch.zeros_like(client.vector) for client in this_round.clients}
        sent = 0.0
        for sender, received in exchange.send_to_peers(updates, senders):
            has = unpack_mask(received.mask)
            sent += float(has.sum())
            for client in this_round.clients:
                if sender == client.id or sender in senders[client.id]:
                    # Its own values stay as they are; 16 bits round those that travel.
                    sums[client.id] += client.vector * client.extra["kept"] if sender == client.id else received.vector
                    counts[client.id] += has
        if self.evolve:
            share = self.anneal / 2 * (1 + math.cos(math.pi * min(1.0, this_round.number / self.anneal_rounds)))
            for client in this_round.clients:
                self._move(client, share)
        for client in this_round.clients:
            mean = sums[client.id] / counts[client.id].clamp(min=1)
            client.vector.copy_(mean * client.extra["kept"])
            client.mask = pack_mask(self._elements(client))
        links = sum(len(own) for own in senders.values())
        return {
            "update/density": sent / self._shared.size / max(1, len(this_round.ids)),
            "peers/messages": float(links),
        }

    def merged(self, client: Client) -> Tensor:
        return client.vector
