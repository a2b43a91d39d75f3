"""FedAMP (Huang et al., AAAI 2021, arXiv 2007.03797, Algorithm 1): each client gets a mean of those that resemble it.

Shares and sends every trainable parameter, dense; the server answers each client with a model of its own.
    w_i ← SGD on F_i(w) + (λ/2a) ‖w − u_i‖² from u_i
    ξ_ij = a·A'(‖w_i − w_j‖²), j ≠ i, with A'(x) = e^(−x/σ)/σ        ξ_ii = 1 − Σ_{j≠i} ξ_ij        u_i = Σ_j ξ_ij w_j
over the round's participants. a is the paper's α_k, kept constant; where a fit starts the paper leaves open: at u_i here.
"""

from __future__ import annotations

from typing import Annotated

import torch
from lightning import LightningModule
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.config import ConfigError
from fedpurin.exchange import Exchange
from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS, Method, Round, mix_in
from fedpurin.space import ParameterSpace, Roles


@dataclass(kw_only=True, config=OPTIONS)
class FedAMP(Method):
    """A mixture a client, by the distance of models. The attention of similar pairs is stronger."""

    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """λ, strength of the pull towards u_i."""
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """a: attention to a model at no distance is a/σ. At most σ/(n − 1) for n clients a round: no weight is negative then."""
    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 100.0
    """σ, squared distance at which attention has fallen to e⁻¹."""

    def check(self, space: ParameterSpace, num_participants: int) -> None:
        if self.step * (num_participants - 1) > self.sigma:
            raise ConfigError(
                f"method.step={self.step:g} with method.sigma={self.sigma:g} can give {num_participants} clients a round "
                f"negative weights: method.step must be at most {self.sigma / (num_participants - 1):g}"
            )

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        adapted: LightningModule = mix_in("lightning_modules.Proximal", module)
        return adapted

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        values = {"proximal_weight": self.lam / self.step}
        return (LocalFit(models={"reference": client.vector.clone()}, values=values),)

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        weights = exchange.mix(this_round.vectors, self._attention_weights)
        return {"collaboration/own": float(weights.diagonal().mean())}

    def _attention_weights(self, distances: Tensor) -> Tensor:
        attention = self.step * torch.exp(-distances / self.sigma) / self.sigma
        attention.fill_diagonal_(0.0)
        return attention + torch.diag(1.0 - attention.sum(1))
