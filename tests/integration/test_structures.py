"""Runs on batches of every structure: mappings, several inputs, numbers as targets, a collate function."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fedpurin
from fedpurin import ConfigError
from tests import structures
from tests.command import run_command

OPTIONS = [
    "partition=iid",
    "partition.num_clients=8",
    "trainer.rounds=2",
    "trainer.local_epochs=1",
    "trainer.batch_size=8",
]
QUIET = [*OPTIONS, "callbacks.progress=null", "checkpoint.every=0"]
KINDS = {
    "mappings": structures.OfMappings,
    "two_inputs": structures.OfTwoInputs,
    "sequences": structures.OfSequences,
    "numbers": structures.OfNumbers,
}
JUDGED = ["trainer.monitor=mse", "trainer.monitor_mode=min"]


@pytest.mark.parametrize("executor", ["serial", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_batch_is_trained_and_measured(tmp_path: Path, kind: str, executor: str) -> None:
    train, test, *collate = getattr(structures, kind)()
    options = [*QUIET, f"trainer.executor={executor}", *(JUDGED if kind == "numbers" else [])]
    torch.manual_seed(0)
    result = fedpurin.simulate(
        options, module=KINDS[kind](), train=train, test=test, collate=collate[0] if collate else None, run_dir=tmp_path
    )
    last = result.history[-1]
    assert last["loss/train"] < result.history[0]["loss/train"]
    assert last["bytes/up"] > 0
    executed = type(result.federation.executor).__name__
    assert executed == ("CohortExecutor" if executor == "auto" and kind != "sequences" else "SerialExecutor")


def test_serial_and_cohort_agree_on_mappings(tmp_path: Path) -> None:
    train, test = structures.mappings()
    losses = []
    for executor in ("serial", "cohort"):
        torch.manual_seed(0)
        result = fedpurin.simulate(
            [*QUIET, f"trainer.executor={executor}"], module=structures.OfMappings(), train=train, test=test,
            run_dir=tmp_path / executor,
        )  # fmt: skip
        losses.append([record["loss/train"] for record in result.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_regression_run_is_told_end_to_end(tmp_path: Path) -> None:
    """Every logged value lands in metrics.jsonl, clients.csv and summary.json; no accuracy is invented."""
    train, test = structures.numbers()
    with pytest.raises(ConfigError, match=r"logged \['mae', 'mse'\]; .* trainer.monitor_mode=min"):
        fedpurin.simulate(QUIET, module=structures.OfNumbers(), train=train, test=test, run_dir=tmp_path / "a")
    options = [*QUIET, *JUDGED, "checkpoint.every=1", "trainer.rounds=3"]
    fedpurin.simulate(options, module=structures.OfNumbers(), train=train, test=test, run_dir=tmp_path / "b")
    records = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    names = [f"test/{name}/{variant}" for name in ("mse", "mae") for variant in ("personalized", "sparse", "merged")]
    for record in records:
        assert all(record[name] >= 0 for name in names)
        assert not [name for name in record if name.startswith("accuracy")]
    assert records[-1]["test/mse/personalized/best"] <= records[-1]["test/mse/personalized/worst"]
    with (tmp_path / "b" / "clients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert set(names) <= set(rows[0])
    assert not [name for name in rows[0] if name.startswith("accuracy")]
    summary = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert summary["headline"] == "test/mse/personalized"
    assert summary["best/test/mse/personalized"] == min(record["test/mse/personalized"] for record in records)
    assert not [name for name in summary if "accuracy" in name]
    written = json.loads((tmp_path / "b" / "partition.json").read_text())
    assert written["class_names"] == ["samples"]


def test_methods_that_need_classes_say_so(tmp_path: Path) -> None:
    train, test = structures.numbers()
    with pytest.raises(
        ConfigError, match="method=FedRoD needs classes, and the targets of these data are no class numbers"
    ):
        fedpurin.simulate(
            [*QUIET, *JUDGED, "method=fedrod"], module=structures.OfNumbers(), train=train, test=test, run_dir=tmp_path
        )

    train, test = structures.mappings()
    with pytest.raises(ConfigError, match=r"method=FedProto reads batches \(x, y\)"):
        fedpurin.simulate(
            [*QUIET, "method=fedproto"], module=structures.OfMappings(), train=train, test=test, run_dir=tmp_path / "b"
        )


def command(folder: Path, kind: str, *options: str) -> list[dict[str, Any]]:
    own = [f"data._target_=tests.structures.{kind}", f"model._target_=tests.structures.{KINDS[kind].__name__}"]
    judged = JUDGED if kind == "numbers" else []
    return run_command(folder, "data=custom", "model=custom", *own, *OPTIONS, *options, *judged)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_and_a_resume_keep_the_bits(tmp_path: Path, kind: str) -> None:
    one = command(tmp_path / "one", kind)
    assert one == command(tmp_path / "two", kind, "trainer.devices=2")
    command(tmp_path / "cut", kind, "trainer.rounds=1")
    assert one == command(tmp_path / "cut", kind, "resume=auto")
