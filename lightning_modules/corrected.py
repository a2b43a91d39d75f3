"""A client whose gradients are corrected by a constant: SCAFFOLD's local step (arXiv 1910.06378, equation 3).

Owns the term ⟨d, w⟩, whose gradient is d. Does not own: the loss it is added to, what the correction is (the method).
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule

from fedpurin.local.context import loss_context
from lightning_modules.mixing import add_to_loss


class Corrected(LightningModule):
    """Mixed into a client's class by `fedpurin.methods.base.mix_in`; without a correction it changes nothing.

    Reads `models["correction"]`, the vector d.
    """

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        correction = loss_context().models.get("correction")
        if correction is None or output is None:
            return output
        named = [(name, weight) for name, weight in self.named_parameters() if weight.requires_grad]
        weights = torch.cat([weight.flatten() for _, weight in named])
        # Minus its own value: the loss that is reported stays the client's, the gradient is d.
        term = weights @ torch.cat([correction[name].flatten() for name, _ in named])
        return add_to_loss(output, term - term.detach())
