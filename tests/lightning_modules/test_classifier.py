"""The plain client's loss, metrics and optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules import ImageClassifier

BATCH = (torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0]))


def test_training_loss_is_the_mean_cross_entropy() -> None:
    loss = ImageClassifier(nn.Identity()).training_step(BATCH, 0)
    expected = (torch.log1p(torch.tensor(2.0).neg().exp()) + 3 + torch.log1p(torch.tensor(-3.0).exp())) / 2
    assert float(loss) == pytest.approx(float(expected))


def test_validation_logs_loss_and_accuracy_with_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, tuple[float, int]] = {}
    module = ImageClassifier(nn.Identity())

    def log(name: str, value: Any, *, batch_size: int) -> None:
        logged[name] = float(value), batch_size

    monkeypatch.setattr(module, "log", log)
    module.validation_step(BATCH, 0)
    assert logged["accuracy"] == (0.5, 2)
    assert logged["loss"] == (pytest.approx(float(module.training_step(BATCH, 0))), 2)


def test_optimizer_takes_the_options() -> None:
    module = ImageClassifier(nn.Linear(2, 2), lr=0.2, momentum=0.8, weight_decay=0.01)
    (group,) = module.configure_optimizers().param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.2, 0.8, 0.01)
    assert len(group["params"]) == 2
