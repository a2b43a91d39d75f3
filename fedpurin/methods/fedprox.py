"""FedProx (Li et al., MLSys 2020, Algorithm 2): FedAvg, and local training that may not go far.

Shares and sends every trainable parameter, dense; keeps nothing.
    w_i ← arg min_w  F_i(w) + (μ/2) ‖w − wᵗ‖²                by E epochs of SGD from the model received, wᵗ
    w ← Σ_i (s_i / Σ_k s_k) w_i
"""

from __future__ import annotations

from typing import Annotated

from lightning import LightningModule
from pydantic import Field
from pydantic.dataclasses import dataclass

from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS, mix_in
from fedpurin.methods.fedavg import FedAvg
from fedpurin.space import Roles


@dataclass(kw_only=True, config=OPTIONS)
class FedProx(FedAvg):
    """FedAvg under a proximal loss."""

    mu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """Weight of the proximal term; its authors advise to tune it among 0.001, 0.01, 0.1, 0.5 and 1 for each data set.
    Large values hold clients back."""

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        adapted: LightningModule = mix_in("lightning_modules.Proximal", module)
        return adapted

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        return (LocalFit(models={"reference": client.vector}, values={"proximal_weight": self.mu}),)
