"""The plain client of a regression: a backbone, the mean squared error and SGD.

Owns: the loss and the optimizer. Does not own: the network (backbones/), which value a run is judged by
(`trainer.monitor=mse trainer.monitor_mode=min`).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from lightning_modules.classifier import Batch, ImageClassifier


class Regressor(ImageClassifier):
    """Mean squared error of `backbone(x)`, one number for each of the target's: targets [batch] or [batch, ...]."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        return functional.mse_loss(self(x).view_as(y), y)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        errors = self(x).view_as(y) - y
        self.log("mse", errors.square().mean(), batch_size=len(y))
        self.log("mae", errors.abs().mean(), batch_size=len(y))
