"""LotteryFL (Li et al., SEC 2021, arXiv 2008.03371, Algorithm 1): each client looks for its own lottery ticket.

Shares every trainable parameter of the client's ticket m_i. Where the model that a client has received is accurate enough,
and less than `target` is pruned, the client prunes of each weight tensor the smallest `rate` of what remains, and starts
again from the initial weights θ_0; otherwise it trains on:
    m_i ← m_i without the smallest of w ⊙ m_i,  w_i ← SGD from θ_0 ⊙ m_i      or      w_i ← SGD from w ⊙ m_i
    w_q ← mean of w_i,q over the clients whose tickets have q
The paper measures that accuracy on validation data, which a client does not have here: as in its public code it is on
test data, here `accuracy/merged` as last measured (`trainer.evaluate_every`); `accuracy: 0` leaves test data out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.exchange import Exchange
from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS, Round
from fedpurin.methods.partial import Partial
from fedpurin.methods.weights import weight_elements, weight_matrices, without_smallest
from fedpurin.space import Layout


@dataclass(kw_only=True, config=OPTIONS)
class LotteryFL(Partial):
    """A sparse mean of tickets; `extra["kept"]` is m_i, as ones and zeros."""

    rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the remaining weights that a pruning removes."""
    target: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the weights beyond which a client no longer prunes."""
    accuracy: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Least accuracy of a model that is pruned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._initial: Tensor | None = None
        self._draws = False

    def begin(self, this_round: Round, exchange: Exchange, shared: Layout) -> None:
        self._draws = self._global is not None  # in the first round nobody has trained yet
        super().begin(this_round, exchange, shared)
        if not self._draws:
            assert self._global is not None
            self._initial = self._global.clone()

    def _draw(self, client: Client) -> None:
        """Prune and start again, or leave the model as it was received."""
        assert self._initial is not None
        kept = self.shared_elements(client)
        segments = weight_matrices(self._shared)
        weights = weight_elements(self._shared, client.vector)
        pruned = 1.0 - int((kept & weights).sum()) / int(weights.sum())
        if pruned >= self.target or not self._is_accurate(client, "merged", self.accuracy):
            return
        kept = without_smallest(client.vector.abs(), kept, self.rate, [segment.slice for segment in segments])
        client.store("kept", kept.float())
        client.vector[: self._shared.length] = self._initial * kept[: self._shared.length]

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        if self._draws:  # here, so that a client that diverges from its new start is given back the ticket it had
            self._draw(client)
        return (LocalFit(update_mask=self.shared_elements(client)),)

    def shared_elements(self, client: Client) -> Tensor:
        if "kept" not in client.extra:
            client.extra["kept"] = torch.ones_like(client.vector)
        return client.extra["kept"] > 0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"initial": self._initial}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._initial = state["initial"]
