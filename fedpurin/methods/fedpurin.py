"""FedPURIN (arXiv 2510.16065; docs/method.md is the specification): critical parameters, from those whose masks overlap.

Shares every trainable parameter but those of normalisation layers; sends a mask and the critical values.
The mask m_i is the optimum of the critical-parameter program over perturbation scores (METHOD steps 2 and 3); the
callback `callbacks/mask_selection.py` computes it when a client's fit ends. Here are steps 4 to 7:

    O_ij  overlap of masks                               θ_t = Ō + (t+1)/β · (O_max − Ō)
    C_i = {i} ∪ {j ≠ i : O_ij ≥ θ_t}                     ŵ_i = Σ_{j∈C_i} m_j ⊙ w_j / |C_i|   (published)
    w_i ← m_i ⊙ ŵ_i + (1 − m_i) ⊙ w_i
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from fedpurin.config import ConfigError
from fedpurin.exchange import Exchange
from fedpurin.methods.base import OPTIONS, Method, Round
from fedpurin.methods.overlap import Collaboration, collaborators, horizon_closed, overlap_matrix
from fedpurin.space import ParameterSpace, Segment

MAX_CONTRIBUTORS = 2**15 - 1
"""A count of contributors travels in two bytes, of which torch's types leave fifteen bits."""


@dataclass(kw_only=True, config=OPTIONS)
class FedPURIN(Method):
    """Sparse exchange. Every switch of docs/method.md; the defaults are the published rule."""

    needs_masks: ClassVar[bool] = True

    beta: Annotated[int, Field(ge=1)] = 100
    """Collaboration horizon, rounds."""
    overlap: Literal["published", "dice"] = "published"
    normalise: Literal["collaborators", "contributors"] = "collaborators"
    fill: Literal["local", "global"] = "local"
    share_norm: bool = False
    close_after_horizon: bool = False
    """Past β, once nobody can collaborate any more, stop sending masks too (needs three clients)."""

    def __post_init__(self) -> None:
        self._closed = False

    def shares(self, segment: Segment) -> bool:
        return self.share_norm or not segment.is_norm

    def check(self, space: ParameterSpace, num_participants: int) -> None:
        if self.close_after_horizon and num_participants < 3:
            raise ConfigError(
                f"method.close_after_horizon=true with {num_participants} clients a round is not possible "
                "(partition.num_clients, trainer.clients_per_round): two overlaps may be equal for ever; it needs three"
            )
        if self.normalise == "contributors" and num_participants > MAX_CONTRIBUTORS:
            raise ConfigError(
                f"method.normalise=contributors with {num_participants} clients a round is not possible: "
                f"contributors are counted up to {MAX_CONTRIBUTORS} (trainer.clients_per_round)"
            )
        if self.close_after_horizon and self.fill == "global":
            raise ConfigError(
                "method.close_after_horizon=true needs method.fill=local: the global part travels in every round"
            )

    def collaboration(self) -> Collaboration:
        return Collaboration(self.overlap, self.beta)

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        if self._closed:
            return {"collaboration/closed": 1.0}
        masks = exchange.share_masks(this_round.masks)
        overlap = overlap_matrix(torch.stack([masks[client_id] for client_id in this_round.ids]), self.overlap)
        groups = collaborators(overlap, this_round.ids, this_round.number, self.beta)
        exchange.combine(
            this_round.vectors, masks, groups, normalise=self.normalise, fill=self.fill, weights=this_round.num_train
        )
        self._closed = self.close_after_horizon and horizon_closed(overlap, this_round.number, self.beta)
        return {
            "collaboration/closed": float(self._closed),
            "collaboration/partners": sum(len(group) - 1 for group in groups.values()) / len(groups),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"closed": self._closed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._closed = bool(state["closed"])
