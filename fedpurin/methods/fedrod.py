"""FedRoD (Chen & Chao, ICLR 2022, arXiv 2107.00778): a generic model under a balanced loss, a personal head upon it.

Shares and sends body θ and generic head ψ, dense; keeps the personal head φ_i. With logits g = h(f(x; θ); ψ),
p = h(f(x; θ); φ_i) and a client's class counts N_c:
    (θ, ψ) ← SGD on the balanced softmax loss −log( N_y^γ e^{g_y} / Σ_c N_c^γ e^{g_c} )
    φ_i    ← SGD on the cross-entropy of g + p, θ and ψ fixed
    (θ, ψ) ← Σ_i (s_i / Σ_k s_k) (θ, ψ)_i

Every accuracy is that of g + p: `personalized` with the client's own θ and ψ, `merged` with the averaged ones.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from lightning import LightningModule
from pydantic import Field
from pydantic.dataclasses import dataclass

from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS, mix_in, require_free, require_head
from fedpurin.methods.fedavg import FedAvg
from fedpurin.space import ParameterSpace, Roles, Segment


@dataclass(kw_only=True, config=OPTIONS)
class FedRoD(FedAvg):
    """FedAvg of all but the personal head, which starts as a copy of the generic one."""

    needs_classes: ClassVar[bool] = True

    gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """γ, exponent of the class counts; 0 is plain cross-entropy."""

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        path = roles.head_path(module)
        if path is None:
            return module  # `check` will say so
        require_free(self, module, "personal_head")
        adapted: Any = mix_in("lightning_modules.TwoHeaded", module)
        adapted.add_personal_head(path)
        return adapted  # type: ignore[no-any-return]

    def shares(self, segment: Segment) -> bool:
        return not segment.name.startswith("personal_head.")

    def check(self, space: ParameterSpace, num_participants: int) -> None:
        require_head(self, space)

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        assert client.class_counts is not None, "needs_classes"
        counts = client.class_counts.float()
        log_prior = torch.where(counts > 0, self.gamma * counts.clamp(min=1).log(), -torch.inf)
        return (LocalFit(values={"log_prior": log_prior}),)
