"""APFL (Deng, Kamani & Mahdavi, 2020, arXiv 2003.13461, Algorithm 1): own and global model, mixed by a learned weight.

Shares and sends its copy w_i of the global model, dense; keeps the personal v_i and the weight α_i. With v̄ = αv + (1 − α)w:
    w_i ← w_i − η ∇f(w_i)        v_i ← v_i − η α ∇f(v̄_i)        α_i ← α_i − η ⟨v_i − w_i, ∇f(v̄_i)⟩, within [0, 1]
    w ← (1/|S|) Σ_i w_i          over the round's participants S
All three in one step of the client's own optimizer, momentum and all. Every accuracy is that of v̄: `personalized` with the
client's own w_i, `merged` with the mean.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from lightning import LightningModule
from pydantic import Field
from pydantic.dataclasses import dataclass

from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS, mix_in, require_free
from fedpurin.methods.fedavg import FedAvg
from fedpurin.space import Roles, Segment

ALPHA = "personal.alpha"


@dataclass(kw_only=True, config=OPTIONS)
class APFL(FedAvg):
    """FedAvg of w; v and α are further parameters of the client's module."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """α at first, or for good."""
    adaptive: bool = True
    """Whether α is learned."""
    weighting: Literal["samples", "uniform"] = "uniform"

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        require_free(self, module, "personal")
        adapted: Any = mix_in("lightning_modules.Interpolating", module)
        adapted.add_personal_model(self.alpha)
        return adapted  # type: ignore[no-any-return]

    def shares(self, segment: Segment) -> bool:
        return not segment.name.startswith("personal.")

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        return (
            LocalFit(
                trains=None if self.adaptive else lambda segment: segment.name != ALPHA,
                bounds=lambda segment: (0.0, 1.0) if segment.name == ALPHA else None,
            ),
        )
