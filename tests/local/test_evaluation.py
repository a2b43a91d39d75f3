"""A torchmetrics object that a module logs accumulates one client's samples, and those alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from fedpurin.config import ConfigError
from tests.methods.tiny import Plain, simulate


class WithMetric(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.measure = MulticlassAccuracy(3, average="micro")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.measure.update(self(batch[0]), batch[1])
        self.log("accuracy", self.measure)


class LogsAVector(Plain):
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("accuracy", torch.ones(2))


def accuracies(folder: Path, module: Plain) -> list[float]:
    simulate(folder, "method=local", "trainer.rounds=2", module=module)
    with (folder / "clients.csv").open() as file:
        return [float(row["accuracy/personalized"]) for row in csv.DictReader(file)]


def test_a_metric_object_measures_what_plain_numbers_do(tmp_path: Path) -> None:
    plain, metric = accuracies(tmp_path / "plain", Plain()), accuracies(tmp_path / "metric", WithMetric())
    assert metric == pytest.approx(plain, abs=1e-6)
    assert len(set(metric)) > 2


def test_what_is_no_number_is_named(tmp_path: Path) -> None:
    message = r"validation_step logged 'accuracy' as a tensor \[2\]; one number is possible"
    with pytest.raises(ConfigError, match=message):
        simulate(tmp_path, "method=local", "trainer.rounds=1", "trainer.executor=serial", module=LogsAVector())
