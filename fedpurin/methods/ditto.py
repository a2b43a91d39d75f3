"""Ditto (Li et al., ICML 2021, Algorithm 1): a global model by FedAvg, and beside it a personal one near to it.

Shares and sends every trainable parameter of its copy of the global model, dense; keeps the personal model v_i.
    w_i ← SGD on F_i from wᵗ                                 w ← (1/|S|) Σ_i w_i   over the round's participants S
    v_i ← SGD on F_i(v) + (λ/2) ‖v − wᵗ‖² from v_i           never sent

`accuracy/personalized` measures v_i, `accuracy/merged` the new global model (with the running statistics of v_i, where
the network has any: the client keeps one set).
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
class Ditto(FedAvg):
    """FedAvg of `extra["global"]`; the client's own vector is the personal model."""

    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """λ: how strongly the personal model is drawn to the global one; 1 is the paper's where nobody attacks."""
    personal_epochs: Annotated[int, Field(ge=1)] | None = None
    """Epochs for the personal model; None takes `trainer.local_epochs`, which the global one always gets."""
    weighting: Literal["samples", "uniform"] = "uniform"

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        adapted: LightningModule = mix_in("lightning_modules.Proximal", module)
        return adapted

    def copy_of_global(self, client: Client) -> Tensor:
        if "global" not in client.extra:  # its first round: its model is still the one that all start from
            client.extra["global"] = client.vector.clone()
        return client.extra["global"]

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        received = self.copy_of_global(client).clone()
        shared = LocalFit(start="global", keep=("global",), purpose="fit/global", scored=False)
        values = {"proximal_weight": self.lam}
        return shared, LocalFit(epochs=self.personal_epochs, models={"reference": received}, values=values)

    def merged(self, client: Client) -> Tensor:
        return self.copy_of_global(client)
