"""Per-FedAvg (Fallah, Mokhtari & Ozdaglar, NeurIPS 2020, arXiv 2002.07948, Algorithm 1), first order (FO).

Shares and sends every trainable parameter, dense; keeps nothing. With D and D' the two halves of a batch:
    w_i ← w_i − η ∇f(w_i − α∇f(w_i; D); D')        w ← Σ_i (s_i / Σ_k s_k) w_i      (the paper's weights are equal)
FO leaves out the factor I − α∇²f, as the paper's section 5 does. `accuracy/merged` measures w, `accuracy/personalized` what a
client makes of the w that a round starts from: SGD of rate α for `adaptation_epochs`, dropped afterwards (the paper
takes one step).
"""

from __future__ import annotations

from typing import Annotated, Literal

from lightning import LightningModule
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS, mix_in
from fedpurin.methods.fedavg import FedAvg
from fedpurin.space import Roles


@dataclass(kw_only=True, config=OPTIONS)
class PerFedAvg(FedAvg):
    """FedAvg of a model that is good after a step; `extra["personal"]` is the adapted one."""

    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    """α, the rate of the adaptation."""
    adaptation_epochs: Annotated[int, Field(ge=1)] = 1
    weighting: Literal["samples", "uniform"] = "uniform"

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        adapted: LightningModule = mix_in("lightning_modules.Adapting", module)
        return adapted

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        adapted = LocalFit(
            keep=("personal",), lr=self.alpha, epochs=self.adaptation_epochs, purpose="fit/personal", scored=False
        )
        return adapted, LocalFit(values={"adaptation_rate": self.alpha})

    def personalized(self, client: Client) -> Tensor:
        return client.extra["personal"]
