"""A client that learns which weights of a random network to use: FedPM (Isik et al., ICLR 2023, arXiv 2209.15328, section 3).

Owns: the loss at w ⊙ m with m ~ Bern(σ(s)) drawn in every step, and the straight-through gradient of s. Does not own: w,
and which elements have a score at all (the method's).
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule

from fedpurin.local.context import loss_context
from lightning_modules.mixing import step_at


class Masking(LightningModule):
    """Mixed into a client's class by `fedpurin.methods.base.mix_in`; without weights it changes nothing.

    Reads `models["weights"]` w. The module's own parameters are the scores s then.
    """

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        step, models = super().training_step, loss_context().models
        if "weights" not in models:
            return step(batch, batch_idx)
        masked = {}
        for name, scores in self.named_parameters():
            if name not in models["weights"]:  # frozen
                continue
            chance = torch.sigmoid(scores)
            drawn = torch.bernoulli(chance.detach())
            masked[name] = models["weights"][name] * (drawn + chance - chance.detach())
        return step_at(self, step, masked, batch, batch_idx)
