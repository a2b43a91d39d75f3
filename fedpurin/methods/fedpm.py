"""FedPM (Isik et al., ICLR 2023, arXiv 2209.15328, Algorithms 1 and 2): masks of a random network, one bit a weight.

The weights w never change: of each layer signs times one size, √(2/fan-in), known to all by the seed. A client trains a
score s for each; with θ = σ(s), every step draws m ~ Bern(θ), takes the loss at w ⊙ m and gives the gradient of m to θ:
    m_i ~ Bern(θ_i) goes up       α ← α + Σ_i m_i,  β ← β + |S| − Σ_i m_i       θ = (α − 1) / (α + β − 2) comes down, dense
α = β = 1 again every ⌈clients / participants⌉ rounds. θ stays within [ε, 1 − ε], so that scores are finite.
Scores start at 0. Biases and norms, which the paper's networks have none of, stay at their initial values; so does what has no
score. `accuracy/personalized` measures w ⊙ m_i, the mask that goes up, `accuracy/merged` a mask drawn from θ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from lightning import LightningModule
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.exchange import Exchange, Update
from fedpurin.local.client import Client
from fedpurin.local.fit import MODEL, LocalFit
from fedpurin.methods.base import OPTIONS, Method, Round, mix_in
from fedpurin.methods.weights import require_weights, weight_elements, weight_matrices
from fedpurin.seeding import torch_generator
from fedpurin.space import Layout, ParameterSpace, Roles, pack_mask, unpack_mask

ALWAYS = 30.0
"""A score whose σ is 1 in float32: of what is no weight."""


@dataclass(kw_only=True, config=OPTIONS)
class FedPM(Method):
    """Clients train `extra["scores"]`; between rounds their model is w ⊙ m."""

    score_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 300.0
    """Learning rate of the scores, by plain SGD: their gradients are small, being those of weights times w·θ(1 − θ)."""
    epsilon: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """ε, how near to 0 and 1 a probability may come."""

    def __post_init__(self) -> None:
        self._weights: Tensor | None = None
        self._alpha: Tensor | None = None
        self._beta: Tensor | None = None
        self._theta: Tensor | None = None
        self._shared: Layout
        self._seed = self._round = self._drawn = 0

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        adapted: LightningModule = mix_in("lightning_modules.Masking", module)
        return adapted

    def check(self, space: ParameterSpace, num_participants: int) -> None:
        require_weights(self, space)

    def begin(self, this_round: Round, exchange: Exchange, shared: Layout) -> None:
        self._shared, self._seed, self._round = shared, this_round.seed, this_round.number
        self._drawn = len(this_round.ids)  # with those that diverge
        if self._weights is None:
            initial = exchange.common(this_round.clients[0].vector if this_round.clients else None)
            self._weights = _signed(initial, shared)
        scored = self._scored()
        packed = pack_mask(scored)
        if self._theta is None:
            received = {client.id: torch.full_like(client.vector, 0.5) for client in this_round.clients}
        else:
            answers = exchange.answer({client.id: Update(self._theta, packed) for client in this_round.clients})
            received = {client_id: answer.vector for client_id, answer in answers.items()}
        for client in this_round.clients:
            theta = received[client.id].clamp(self.epsilon, 1 - self.epsilon)
            client.vector.copy_(torch.where(scored, torch.logit(theta), ALWAYS))

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        if self._weights is None:  # the trial that decides on the executor
            return (LocalFit(keep=(MODEL, "scores"), lr=self.score_lr, models={"weights": client.vector.clone()}),)
        return (
            LocalFit(
                keep=(MODEL, "scores"),
                lr=self.score_lr,
                models={"weights": self._weights},
                update_mask=self._scored(),
            ),
        )

    def sit_out(self, client: Client) -> None:
        """Its model is that of its last mask; before the first one, all weights."""
        scored = self._scored()
        client.vector.copy_(self._masked(scored if client.mask is None else unpack_mask(client.mask)))

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        for client in this_round.clients:
            client.mask = pack_mask(self._sample(client) & self._scored())
        ones = torch.zeros_like(self._scored(), dtype=torch.float32)
        for mask in exchange.share_masks(this_round.masks, alone=True).values():
            ones += unpack_mask(mask)
        period = math.ceil(this_round.num_clients / self._drawn)
        if self._alpha is None or self._beta is None or this_round.number % period == 0:
            self._alpha, self._beta = torch.ones_like(ones), torch.ones_like(ones)
        self._alpha, self._beta = self._alpha + ones, self._beta + (len(this_round.ids) - ones)
        self._theta = (self._alpha - 1) / (self._alpha + self._beta - 2)
        for client in this_round.clients:
            assert client.mask is not None
            client.vector.copy_(self._masked(unpack_mask(client.mask)))
        scored = self._scored()
        return {"mask/ones": float(ones[scored].sum()) / (len(this_round.ids) * int(scored.sum()))}

    def personalized(self, client: Client) -> Tensor:
        return self._masked(self._sample(client))

    def merged(self, client: Client) -> Tensor:
        assert self._theta is not None, "a round has ended"
        draws = torch_generator(self._seed, "masks/merged", round_number=self._round)
        return self._masked(_draw(self._theta, draws))

    def _sample(self, client: Client) -> Tensor:
        """m_i: the same whenever it is asked for in a round."""
        draws = torch_generator(self._seed, "masks/sent", round_number=self._round, client=client.id)
        return _draw(torch.sigmoid(client.extra["scores"]), draws)

    def _masked(self, mask: Tensor) -> Tensor:
        assert self._weights is not None, "begin has run"
        return torch.where(mask | ~self._scored(), self._weights, 0.0)

    def _scored(self) -> Tensor:
        """Which elements have a score: those of weights."""
        assert self._weights is not None, "begin has run"
        return weight_elements(self._shared, self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._weights, "alpha": self._alpha, "beta": self._beta, "theta": self._theta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._weights, self._theta = state["weights"], state["theta"]
        self._alpha, self._beta = state["alpha"], state["beta"]


def _signed(initial: Tensor, layout: Layout) -> Tensor:
    """Signed constants: the initial weights' signs, √(2/fan-in) in size; everything else as it is."""
    weights = initial.clone()
    for segment in weight_matrices(layout):
        size = math.sqrt(2 / math.prod(segment.shape[1:]))
        weights[segment.slice] = torch.where(initial[segment.slice] < 0, -size, size)
    return weights


def _draw(chance: Tensor, generator: torch.Generator) -> Tensor:
    """One Bernoulli draw an element, on the CPU, so that the bits agree on every device."""
    return torch.rand(len(chance), generator=generator).to(chance.device) < chance
