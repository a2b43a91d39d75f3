"""A client held near a reference model: FedProx (Li et al., MLSys 2020, eq. 2), Ditto (Li et al., ICML 2021).

Owns the term (μ/2)·‖w − w_ref‖². Does not own: the loss it is added to (the class it is mixed into), which model is
the reference (the method).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from lightning_modules.mixing import add_to_loss


class Proximal(LightningModule):
    """Mixed into a client's class by `fedpurin.methods.base.mix_in`; outside `held_near` it changes nothing."""

    _reference: Tensor | None = None
    _weight: float = 0.0

    @contextmanager
    def held_near(self, reference: Mapping[str, Tensor], weight: float) -> Iterator[None]:
        """Add (weight/2)·‖w − reference‖² to every training loss; `reference` has a tensor for each parameter name."""
        self._weight = weight
        self._reference = torch.cat([reference[name].flatten() for name, _ in self._trainable()])
        try:
            yield
        finally:
            self._reference = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        if self._reference is None:
            return output
        weights = torch.cat([parameter.flatten() for _, parameter in self._trainable()])  # few kernels, many tensors
        return add_to_loss(output, self._weight / 2 * (weights - self._reference).square().sum())

    def _trainable(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)
