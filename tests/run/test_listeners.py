"""Lightning callbacks and hooks without an effect: refused, or named in one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import pytorch_lightning
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

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
    build(composed("local"), tmp_path, module=Loads(), train=TRAIN, test=TEST, callbacks=[Listens()])
    lines = [record.getMessage() for record in caplog.records if "not called here" in record.getMessage()]
    assert [line.split(": not called")[0] for line in lines] == [
        "Loads overrides train_dataloader",
        "the callback Listens overrides on_train_epoch_end, on_validation_end",
    ]


@pytest.mark.parametrize(
    "callback", [EarlyStopping("loss"), ModelCheckpoint(), pytorch_lightning.callbacks.EarlyStopping("loss")]
)
def test_refused_callbacks(tmp_path: Path, callback: Any) -> None:
    with pytest.raises(ConfigError, match=f"callbacks: {type(callback).__name__} has no effect in a run: "):
        build(composed("local"), tmp_path, module=Plain(), train=TRAIN, test=TEST, callbacks=[callback])
