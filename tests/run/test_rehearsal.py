"""Hooks that cannot work in a client are named before the first round, also those that come at an epoch's end."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedpurin.config import ConfigError
from fedpurin.run.build import build
from tests.methods.tiny import TEST, TRAIN, Plain, composed


class AsksForMetrics(Plain):
    def on_train_epoch_end(self) -> None:
        self.logged = self.trainer.callback_metrics["loss"]


class AsksWhetherItIsSane(Plain):
    def on_validation_epoch_end(self) -> None:
        self.is_sane = self.trainer.sanity_checking


class AsksForData(Plain):
    def on_fit_start(self) -> None:
        self.size = len(self.trainer.datamodule.train)


class OfLightningOne(Plain):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    def lr_scheduler_step(self, scheduler: Any, optimizer_idx: int, metric: Any) -> None:
        scheduler.step()


class CannotGoBack(Plain):
    def on_before_backward(self, loss: Tensor) -> None:
        with torch.no_grad():
            self.net[3].weight.add_(1.0)


class Averages(Plain):
    """A moving average in parameters that require no gradient: there is one for all clients of a process."""

    def __init__(self) -> None:
        super().__init__()
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def on_train_batch_end(self, *_: Any) -> None:
        for mean, own in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mean.data.lerp_(own.data, 0.1)


class AveragesInItsStep(Averages):
    def on_train_batch_end(self, *_: Any) -> None: ...

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        Averages.on_train_batch_end(self)
        return super().training_step(batch, batch_idx)


class Thaws(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.net[0].requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.net[0].requires_grad_(self.current_epoch > 0)


NO_TRAINER = "is not attached to a `Trainer`. (a client has no Trainer; self.current_epoch, self.global_step"


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (AsksForMetrics, f"AsksForMetrics.on_train_epoch_end failed: RuntimeError: AsksForMetrics {NO_TRAINER}"),
        (AsksWhetherItIsSane, "AsksWhetherItIsSane.on_validation_epoch_end failed: RuntimeError"),
        (AsksForData, "AsksForData.on_fit_start failed: RuntimeError"),
        (OfLightningOne, "OfLightningOne.lr_scheduler_step failed: TypeError"),
        (CannotGoBack, "a step of CannotGoBack failed: RuntimeError: one of the variables needed for gradient"),
        (Averages, "Averages changes average.0.weight while it fits, which requires no gradient"),
    ],
)
def test_what_hooks_cannot_do_is_named_before_the_first_round(tmp_path: Path, module: type[Plain], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(composed("local"), tmp_path, module=module(), train=TRAIN, test=TEST)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Thaws, "Thaws lets net.0.weight require a gradient while it fits"),
        (AveragesInItsStep, "AveragesInItsStep changes average.0.weight while it fits"),
    ],
)
def test_what_changes_frozen_parts_later_is_named_when_it_does(tmp_path: Path, module: type[Plain], said: str) -> None:
    federation = build(composed("local"), tmp_path, module=module(), train=TRAIN, test=TEST)
    with pytest.raises(ConfigError, match=said):
        federation.run()
