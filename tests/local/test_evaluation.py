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


class SharesIt(WithMetric):
    """One object in both steps: Lightning resets it at the end of a training epoch."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.measure.update(self(batch[0]), (batch[1] + 1) % 3)
        self.log("train", self.measure)
        return super().training_step(batch, batch_idx)


class Reduces(Plain):
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        for reduction in ("sum", "max", torch.min, "mean"):
            name = reduction if isinstance(reduction, str) else "min"
            self.log(name, float(len(batch[1]) + batch_idx), reduce_fx=reduction)


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
    assert accuracies(tmp_path / "shared", SharesIt()) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("executor", ["serial", "cohort"])
def test_values_are_reduced_as_they_say(tmp_path: Path, executor: str) -> None:
    """Ten test samples a client, in batches of 8 and 2."""
    simulate(
        tmp_path, "method=local", "partition=iid", "trainer.rounds=1", f"trainer.executor={executor}", module=Reduces()
    )
    with (tmp_path / "clients.csv").open() as file:
        (row, *_) = csv.DictReader(file)
    reduced = [float(row[f"test/{name}/personalized"]) for name in ("sum", "max", "min", "mean")]
    assert reduced == pytest.approx([8 + 3, 8, 3, (8 * 8 + 2 * 3) / 10])


def test_what_is_no_number_is_named(tmp_path: Path) -> None:
    message = r"validation_step logged 'accuracy' as a tensor \[2\]; one number is possible"
    with pytest.raises(ConfigError, match=message):
        simulate(tmp_path, "method=local", "trainer.rounds=1", "trainer.executor=serial", module=LogsAVector())
