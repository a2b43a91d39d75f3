"""A client held near a reference model: FedProx (Li et al., MLSys 2020, eq. 2), Ditto (Li et al., ICML 2021).

Owns the term (μ/2)·‖w − w_ref‖². Does not own: the loss it is added to (the class it is mixed into), which model is
the reference (the method).
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule

from fedpurin.local.context import loss_context
from lightning_modules.mixing import add_to_loss


class Proximal(LightningModule):
    """Mixed into a client's class by `fedpurin.methods.base.mix_in`; without a reference it changes nothing.

    Reads `models["reference"]`, the model w_ref, and `values["proximal_weight"]`, the weight μ.
    """

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        context = loss_context()
        reference = context.models.get("reference")
        if reference is None or output is None:
            return output
        names, weights = zip(*((n, p) for n, p in self.named_parameters() if p.requires_grad), strict=True)
        # Few kernels, however many tensors there are.
        held = torch.cat([reference[name].flatten() for name in names])
        distance = (torch.cat([weight.flatten() for weight in weights]) - held).square().sum()
        return add_to_loss(output, context.values["proximal_weight"] / 2 * distance)
