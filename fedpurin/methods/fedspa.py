"""FedSpa (Huang et al., 2022, arXiv 2201.11380, Algorithms 1 and 2): sparse personal models whose masks move.

Every client trains a model of constant density from the global one, w ⊙ m_i, its other elements fixed at zero:
    u_i = m_i ⊙ (w_i − w)  goes up            w ← w + (1/|S|) Σ_i u_i            w ⊙ m_i comes down
and then moves its mask: of each weight tensor the ⌈a·n⌉ smallest of the n elements leave, a = (α/2)(1 + cos(πt/T)), and
as many of the others, those of largest gradient, take their place. The new mask goes up too. `evolve: false` is the
paper's RSM, random masks that stay.
Masks start at random, with the same density in each tensor; the paper distributes it by layer size (ERK). The gradient is
that of the fit's last mini-batch, where the authors take one more batch. Biases and norms are always kept.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.exchange import Exchange, Update
from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS, Round
from fedpurin.methods.partial import Partial
from fedpurin.methods.weights import weight_matrices
from fedpurin.seeding import torch_generator
from fedpurin.space import Layout, pack_mask


@dataclass(kw_only=True, config=OPTIONS)
class FedSpa(Partial):
    """Sparse from the first step on; `extra["kept"]` is m_i, as ones and zeros."""

    density: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of each weight tensor that a client trains and sends."""
    evolve: bool = True
    """Whether masks move."""
    anneal: Annotated[float, Field(ge=0, le=1)] = 0.5
    """α, share of a mask that moves in the first round."""
    anneal_rounds: Annotated[int, Field(ge=1)] = 100
    """T, rounds until masks rest."""

    def begin(self, this_round: Round, exchange: Exchange, shared: Layout) -> None:
        self._shared = shared
        for client in this_round.clients:
            if "kept" not in client.extra:
                client.extra["kept"] = self._random_mask(client, this_round.seed)
        if self._global is None:
            self._global = exchange.common(this_round.clients[0].vector if this_round.clients else None)
            for client in this_round.clients:
                client.vector *= client.extra["kept"]
        else:
            received = exchange.answer({client.id: Update(self._global, client.mask) for client in this_round.clients})
            for client in this_round.clients:
                client.vector.copy_(received[client.id].vector * client.extra["kept"])
        for client in this_round.clients:
            client.store("start", client.vector)

    def _random_mask(self, client: Client, seed: int) -> Tensor:
        draws, mask = torch_generator(seed, "masks", client=client.id), torch.ones_like(client.vector)
        for segment in weight_matrices(self._shared):
            order = torch.randperm(segment.size, generator=draws).to(mask.device)
            mask[segment.slice][order[max(1, round(self.density * segment.size)) :]] = 0.0
        return mask

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        return (LocalFit(update_mask=self.shared_elements(client), keeps_gradient=True),)

    def shared_elements(self, client: Client) -> Tensor:
        return client.extra["kept"] > 0 if "kept" in client.extra else torch.ones_like(client.vector, dtype=torch.bool)

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        assert self._global is not None, "begin has run"
        updates = {
            client.id: Update(client.vector - client.extra["start"], pack_mask(self._elements(client)))
            for client in this_round.clients
        }
        weights = this_round.num_train if self.weighting == "samples" else dict.fromkeys(this_round.ids, 1)
        mean, senders = exchange.average_updates(updates, weights)
        self._global = self._global + mean
        if self.evolve:
            share = self.anneal / 2 * (1 + math.cos(math.pi * min(1.0, this_round.number / self.anneal_rounds)))
            for client in this_round.clients:
                self._move(client, share)
        for client in this_round.clients:
            client.mask = pack_mask(self._elements(client))
        if self.evolve:
            exchange.share_masks(this_round.masks, alone=True)
        return {"update/density": float(senders.sum()) / self._shared.size}

    def _move(self, client: Client, share: float) -> None:
        kept, size, gradient = client.extra["kept"], client.vector.abs(), client.extra["gradient"].abs()
        for segment in weight_matrices(self._shared):
            part = kept[segment.slice]
            alive = torch.nonzero(part).squeeze(1)
            leave = alive[size[segment.slice][alive].topk(math.ceil(share * len(alive)), largest=False).indices]
            part[leave] = 0.0
            free = torch.nonzero(part == 0).squeeze(1)
            part[free[gradient[segment.slice][free].topk(len(leave)).indices]] = 1.0

    def merged(self, client: Client) -> Tensor:
        assert self._global is not None, "a round has ended"
        return self._global * client.extra["kept"]
