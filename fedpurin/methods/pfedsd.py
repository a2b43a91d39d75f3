"""pFedSD (Jin et al., IEEE TPDS 2022): the previous model of a client teaches the global one that it received.

Shares and sends every trainable parameter, dense; keeps its model as it was after its last fit, the teacher v_i.
    w_i ← SGD from wᵗ on F_i(w) + λτ² KL(softmax(z(v_i)/τ) ‖ softmax(z(w)/τ))        z: logits
    v_i ← w_i                                                w ← (1/|S|) Σ_i w_i   over the round's participants S

In a client's first round there is no teacher. Its personal model is the one after the fit, as for FedAvg.
"""

from __future__ import annotations

from typing import Annotated, Literal

from lightning import LightningModule
from pydantic import Field
from pydantic.dataclasses import dataclass

from fedpurin.local.client import Client
from fedpurin.local.fit import MODEL, LocalFit
from fedpurin.methods.base import OPTIONS, mix_in
from fedpurin.methods.fedavg import FedAvg
from fedpurin.space import Roles


@dataclass(kw_only=True, config=OPTIONS)
class PFedSD(FedAvg):
    """FedAvg under self-distillation; `extra["teacher"]` is the previous model, in evaluation mode."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """τ, which softens both predictions."""
    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """λ, the weight of the distillation. λ = τ = 1 is the authors' code; the published comparison with FedPURIN has 0.5, 3."""
    weighting: Literal["samples", "uniform"] = "uniform"

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        adapted: LightningModule = mix_in("lightning_modules.Distilling", module)
        return adapted

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        keep = (MODEL, "teacher")
        if "teacher" not in client.extra:
            return (LocalFit(keep=keep),)
        values = {"temperature": self.temperature, "distillation_weight": self.lam}
        return (LocalFit(keep=keep, models={"teacher": client.extra["teacher"]}, values=values),)
