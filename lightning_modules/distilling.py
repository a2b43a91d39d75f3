"""A client that learns from a teacher of its own architecture: pFedSD (Jin et al., IEEE TPDS 2022).

Owns the term λτ²·KL(softmax(teacher/τ) ‖ softmax(student/τ)), mean over the batch (Hinton et al., 2015). Does not own:
the loss it is added to (the class it is mixed into), who teaches (the method).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from lightning_modules.mixing import add_to_loss, in_evaluation


class Distilling(LightningModule):
    """Mixed into a client's class by `fedpurin.methods.base.mix_in`; outside `taught_by` it changes nothing.

    The client's `training_step` must get its logits [batch, classes] from `self(x)`: that call is what is compared.
    """

    _teacher: dict[str, Tensor] | None = None
    _temperature: float = 1.0
    _weight: float = 0.0
    _seen: tuple[tuple[Any, ...], Tensor] | None = None

    @contextmanager
    def taught_by(self, teacher: Mapping[str, Tensor], *, temperature: float, weight: float) -> Iterator[None]:
        """Add the term to every training loss; `teacher` has a tensor for each parameter and buffer name."""
        self._teacher, self._temperature, self._weight = dict(teacher), temperature, weight
        try:
            yield
        finally:
            self._teacher = self._seen = None

    def forward(self, *inputs: Any) -> Any:
        output = super().forward(*inputs)
        if self._teacher is not None:
            self._seen = inputs, output
        return output

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        if self._teacher is None:
            return output
        if self._seen is None:
            raise TypeError(
                f"{type(self).__name__}.training_step must call self(x) for its logits to be distilled into"
            )
        inputs, student = self._seen
        with torch.no_grad(), in_evaluation(self):
            teacher = functional_call(self, self._teacher, inputs)
        self._seen = None
        divergence = functional.kl_div(
            functional.log_softmax(student / self._temperature, dim=1),
            functional.log_softmax(teacher / self._temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return add_to_loss(output, self._weight * self._temperature**2 * divergence)
