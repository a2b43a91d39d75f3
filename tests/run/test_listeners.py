"""Lightning callbacks and hooks without an effect: refused, or named in one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import pytorch_lightning
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)

from fedpurin.config import ConfigError
from fedpurin.run.build import build
from tests.methods.tiny import TEST, TRAIN, Plain, composed


class Listens(lightning.Callback):
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None: ...

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None: ...

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None: ...


class Loads(Plain):
    def train_dataloader(self) -> Any: ...


def test_ignored_hooks_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build(
        composed("local"),
        tmp_path,
        module=Loads(),
        train=TRAIN,
        test=TEST,
        callbacks=[Listens(), LearningRateMonitor()],
    )
    lines = [record.getMessage() for record in caplog.records if "not called here" in record.getMessage()]
    assert [line.split(": not called")[0] for line in lines] == [
        "Loads overrides train_dataloader",
        "the callback Listens overrides on_train_epoch_end, on_validation_end",
        "the callback LearningRateMonitor overrides on_train_batch_start, on_train_epoch_start, on_train_start",
    ]


@pytest.mark.parametrize(
    "callback",
    [
        EarlyStopping("loss"),
        ModelCheckpoint(),
        pytorch_lightning.callbacks.EarlyStopping("loss"),
        StochasticWeightAveraging(0.1),
        GradientAccumulationScheduler({0: 2}),
    ],
)
def test_refused_callbacks(tmp_path: Path, callback: Any) -> None:
    with pytest.raises(ConfigError, match=f"callbacks: {type(callback).__name__} has no effect in a run: "):
        build(composed("local"), tmp_path, module=Plain(), train=TRAIN, test=TEST, callbacks=[callback])


def test_a_class_in_the_place_of_a_callback(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"callbacks: Listens is a class; pass an object of it: Listens\(\)"):
        build(composed("local"), tmp_path, module=Plain(), train=TRAIN, test=TEST, callbacks=[Listens])


def test_a_client_that_skips_every_batch_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Idle(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None

    build(composed("local"), tmp_path, module=Idle(), train=TRAIN, test=TEST).run()
    lines = [record.getMessage() for record in caplog.records if "took no step" in record.getMessage()]
    assert lines == ["client 0 took no step in round 1: training_step returned None for all of its batches"]
