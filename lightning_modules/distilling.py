"""A client that learns from a teacher of its own architecture: pFedSD (Jin et al., IEEE TPDS 2022).

Owns the term λτ²·KL(softmax(teacher/τ) ‖ softmax(student/τ)), mean over the batch (Hinton et al., 2015). Does not own:
the loss it is added to (the class it is mixed into), who teaches (the method).
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from fedpurin.local.context import loss_context
from lightning_modules.mixing import add_to_loss, in_evaluation


class Distilling(LightningModule):
    """Mixed into a client's class by `fedpurin.methods.base.mix_in`; without a teacher it changes nothing.

    Reads `models["teacher"]` (with its running statistics), `values["temperature"]` τ and
    `values["distillation_weight"]` λ. The client's `training_step` must get its logits [batch, classes] from
    `self(x)`: that call is what is compared.
    """

    _seen: tuple[tuple[Any, ...], Tensor] | None = None

    def forward(self, *inputs: Any) -> Any:
        output = super().forward(*inputs)
        if "teacher" in loss_context().models:
            self._seen = inputs, output
        return output

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        context = loss_context()
        teacher = context.models.get("teacher")
        if teacher is None or output is None:
            self._seen = None
            return output
        if self._seen is None:
            raise TypeError(
                f"{type(self).__name__}.training_step must call self(x) for its logits to be distilled into"
            )
        (inputs, student), self._seen = self._seen, None
        with torch.no_grad(), in_evaluation(self):
            taught = functional_call(self, dict(teacher), inputs)
        self._seen = None  # the teacher's own forward pass
        temperature, weight = context.values["temperature"], context.values["distillation_weight"]
        divergence = functional.kl_div(
            functional.log_softmax(student / temperature, dim=1),
            functional.log_softmax(taught / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return add_to_loss(output, weight * temperature**2 * divergence)
