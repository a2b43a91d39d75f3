"""A client that is a mixture of its own model and its copy of the global one: APFL (arXiv 2003.13461, Algorithm 1).

Owns: the personal parameters v, the weight α, and the loss f(w) + f(αv + (1 − α)w) in whose second term w is constant, so
that one step moves w by ∇f(w), v by α∇f(v̄) and α by ⟨v − w, ∇f(v̄)⟩. Does not own: what is shared (the method).
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from lightning_modules.mixing import add_to_loss, loss_at, step_at


class Interpolating(LightningModule):
    """Mixed into a client's class by `fedpurin.methods.base.mix_in`; `add_personal_model` makes it work.

    Evaluation is that of the mixture v̄, and so are the running statistics.
    """

    personal: nn.Module

    def add_personal_model(self, alpha: float) -> None:
        """Copy every trainable parameter into `personal`, beside `personal.alpha`."""
        own = [(name, weight) for name, weight in self.named_parameters() if weight.requires_grad]
        self.personal = nn.Module()
        for name, weight in own:
            self.personal.register_parameter(name.replace(".", "/"), nn.Parameter(weight.detach().clone()))
        alpha_like = own[0][1].detach()
        self.personal.alpha = nn.Parameter(torch.full((1,), alpha, dtype=alpha_like.dtype, device=alpha_like.device))

    def _shared(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.named_parameters() if not name.startswith("personal.")}

    def _mixture(self) -> dict[str, Tensor]:
        personal = dict(self.personal.named_parameters())
        alpha = personal["alpha"]
        mixed = {}
        for name, weight in self._shared().items():
            own = personal.get(name.replace(".", "/"))
            mixed[name] = weight.detach() if own is None else alpha * own + (1 - alpha) * weight.detach()
        return mixed

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        step = super().training_step
        generic = loss_at(self, step, self._shared(), batch, batch_idx)
        if generic is None:
            return None
        return add_to_loss(step_at(self, step, self._mixture(), batch, batch_idx), generic)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return step_at(self, super().validation_step, self._mixture(), batch, batch_idx)
