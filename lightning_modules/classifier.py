"""The plain client: a backbone, cross-entropy and SGD.

Owns: the loss and the optimizer of METHOD step 1. Does not own: the network (backbones/), how many epochs and
on which data (fedpurin/local/trainer.py). Any other LightningModule with the same four methods can take its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.backbones import of_options

Batch = tuple[Tensor, Tensor]
"""Inputs [batch, ...] and class numbers [batch]."""


class ImageClassifier(LightningModule):
    """Cross-entropy of `backbone(x)`, logits [batch, classes], under SGD.

    A mapping as `backbone` names one of ours, as exported checkpoints do.

    `training_step` logs nothing: through Fabric each `self.log` would cost a step a synchronisation of the device.
    """

    def __init__(
        self,
        backbone: nn.Module | Mapping[str, Any],
        *,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone if isinstance(backbone, nn.Module) else of_options(backbone)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.backbone(x)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self(x), y)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        accuracy = (logits.argmax(dim=1) == y).float().mean()
        self.log("loss", functional.cross_entropy(logits, y), batch_size=len(y))
        self.log("accuracy", accuracy, batch_size=len(y))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
