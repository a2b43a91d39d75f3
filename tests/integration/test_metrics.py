"""Everything that validation_step logs is recorded, and a run may be judged by another value than an accuracy."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedpurin import metrics
from fedpurin.config import ConfigError
from fedpurin.federation import Federation
from fedpurin.report.read import read_run
from fedpurin.run.build import build
from fedpurin.run.checkpointer import best_rounds
from tests.methods.tiny import TEST, TRAIN, Plain, composed


class Scores(Plain):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log_dict({"f1": 0.5, "size": float(len(batch[1]))})


class OnlyAnError(Plain):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("mse", (self(batch[0]).sum(1) - batch[1]).square().mean())


def run(folder: Path, module: Plain, **trainer: Any) -> Federation:
    config = composed("local")
    federation = build(
        replace(config, trainer=replace(config.trainer, **trainer)), folder, module=module, train=TRAIN, test=TEST
    )
    federation.run()
    return federation


@pytest.mark.parametrize("executor", ["serial", "cohort"])
def test_all_values_are_recorded(tmp_path: Path, executor: str) -> None:
    federation = run(tmp_path, Scores(), executor=executor, cohort="auto" if executor == "serial" else 2)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["test/f1/personalized"] == last["test/f1/merged"] == pytest.approx(0.5)
    assert 0 < last["accuracy/personalized"] <= 1
    with (tmp_path / "clients.csv").open() as file:
        assert {float(row["test/f1/personalized"]) for row in csv.DictReader(file)} == {0.5}
    shown = read_run(tmp_path)
    assert shown.last("test/f1/personalized") == 0.5
    assert shown.final["test/f1/merged"].tolist() == [0.5] * len(federation.clients)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["headline"] == "accuracy/personalized"


def test_a_run_without_an_accuracy(tmp_path: Path) -> None:
    federation = run(tmp_path, OnlyAnError(), monitor="mse", monitor_mode="min")
    summary = json.loads((tmp_path / "summary.json").read_text())
    errors = [record["test/mse/personalized"] for record in federation.history]
    assert summary["headline"] == "test/mse/personalized"
    assert summary["best/test/mse/personalized"] == min(errors)
    last = federation.history[-1]
    assert last["test/mse/personalized/best"] < last["test/mse/personalized"] < last["test/mse/personalized/worst"]
    assert not any(name.startswith("accuracy") for name in last)
    federation.history[:] = [{"test/mse/personalized": value} for value in (3.0, 1.0, 2.0)]
    assert best_rounds(federation, [1, 2, 3]) == 2, "less is better"


def test_nothing_to_judge_by(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer.monitor=None: validation_step of OnlyAnError logged \['mse'\]"):
        run(tmp_path, OnlyAnError())


def test_a_value_that_is_no_number(tmp_path: Path) -> None:
    class Vector(Scores):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            self.log("confusion", torch.zeros(3, 3))

    with pytest.raises(ConfigError, match=r"validation_step logged 'confusion' as a tensor \[3, 3\]"):
        run(tmp_path, Vector(), executor="serial")


def test_names() -> None:
    assert metrics.stems(["val_acc", "f1"], None) == {"val_acc": "accuracy", "f1": "test/f1"}
    assert metrics.stems(["accuracy", "top1"], "top1") == {"accuracy": "test/accuracy", "top1": "accuracy"}
    assert metrics.stems(["accuracy", "f1"], "f1") == {"accuracy": "accuracy", "f1": "test/f1"}
    assert metrics.headline("f1", ["accuracy/merged", "test/f1/merged"]) == "test/f1"
    assert metrics.headline(None, ["test/f1/merged"]) == "accuracy"
    assert metrics.measured_stems(["test/z/merged", "accuracy/sparse", "test/a/b/merged", "loss/train"]) == [
        "accuracy", "test/a/b", "test/z",
    ]  # fmt: skip
