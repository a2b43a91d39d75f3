"""pFedMe (T. Dinh, Tran & Nguyen, NeurIPS 2020, arXiv 2006.08848, Algorithm 1): personal models at a distance from w.

Shares and sends its copy w_i of the global model, dense; keeps nothing. On every batch
    θ ← K steps of rate `rate` from w_i on f(θ) + (λ/2) ‖θ − w_i‖²        w_i ← w_i − ηλ (w_i − θ)
    w ← Σ_i (s_i / Σ_k s_k) w_i                                          (the paper's weights are equal, its β is 1 here)
η is the rate of the client's own optimizer. `accuracy/merged` measures w, `accuracy/personalized` θ_i(w) of the w that a
round starts from: `personal_epochs` of the same steps over the client's data, dropped afterwards.
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
class PFedMe(FedAvg):
    """FedAvg of Moreau envelopes; `extra["personal"]` is θ_i."""

    lam: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 15.0
    """λ; the paper takes 15 to 30."""
    steps: Annotated[int, Field(ge=1)] = 5
    """K, steps towards θ on a batch; the paper takes 5."""
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    """Learning rate of θ."""
    personal_epochs: Annotated[int, Field(ge=1)] = 5
    weighting: Literal["samples", "uniform"] = "uniform"

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        mix_in("lightning_modules.Enveloping", module)
        adapted: LightningModule = mix_in("lightning_modules.Proximal", module)
        return adapted

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        personal = LocalFit(
            keep=("personal",),
            lr=self.rate,
            epochs=self.personal_epochs,
            models={"reference": client.vector.clone()},
            values={"proximal_weight": self.lam},
            purpose="fit/personal",
            scored=False,
        )
        rates = {"envelope_weight": self.lam, "envelope_rate": self.rate, "envelope_steps": float(self.steps)}
        return personal, LocalFit(values=rates)

    def personalized(self, client: Client) -> Tensor:
        return client.extra["personal"]
