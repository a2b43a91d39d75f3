"""A module of one's own, with dropout, layer norm and two inputs, under every executor, in one process and in two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedpurin
from fedpurin.local import graph
from tests import structures
from tests.command import run_command
from tests.local.test_graph import record_plainly

EXECUTORS = ["serial", "cohort", "graph"]
OPTIONS = [
    "partition=iid", "partition.num_clients=6", "trainer.rounds=2", "trainer.local_epochs=2", "trainer.batch_size=4",
    "trainer.accelerator=cpu", "method=fedpurin", "callbacks.progress=null", "checkpoint.every=0",
]  # fmt: skip


class Normed(structures.Base):
    """Two inputs, each through a layer of its own, then layer norm and dropout."""

    def __init__(self, rate: float = 0.4) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 8), nn.Linear(4, 8)
        self.net = nn.Sequential(nn.LayerNorm(8), nn.ReLU(), nn.Dropout(rate), nn.Linear(8, 3))

    def read(self, batch: Any) -> tuple[Tensor, Tensor]:
        first, second, labels = batch
        return self.net(self.first(first) * self.second(second)), labels


class Recorded(Normed):
    """Lets a process of its own, without a GPU, take `trainer.executor=graph`."""

    def __init__(self, rate: float = 0.4) -> None:
        super().__init__(rate)
        graph.RECORDERS["cpu"] = record_plainly


def test_without_dropout_every_executor_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(graph.RECORDERS, "cpu", record_plainly)
    train, test = structures.two_inputs()
    found = {}
    for executor in EXECUTORS:
        torch.manual_seed(2)
        size = [] if executor == "serial" else ["trainer.cohort=3"]
        result = fedpurin.simulate(
            [*OPTIONS, f"trainer.executor={executor}", *size], module=Normed(0.0), train=train, test=test,
            run_dir=tmp_path / executor,
        )  # fmt: skip
        found[executor] = [
            {name: value for name, value in record.items() if not name.endswith("seconds")} for record in result.history
        ]
    assert found["cohort"] == found["graph"]
    for serial, cohort in zip(found["serial"], found["cohort"], strict=True):
        assert cohort["loss/train"] == pytest.approx(serial["loss/train"], rel=1e-5)
        for variant in ("personalized", "merged"):
            assert cohort[f"accuracy/{variant}"] == pytest.approx(serial[f"accuracy/{variant}"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("executor", EXECUTORS)
def test_two_processes_have_the_bits_of_one(tmp_path: Path, executor: str) -> None:
    options = [
        *OPTIONS, "data=custom", "data._target_=tests.structures.two_inputs", "model=custom",
        f"model._target_={__name__}.Recorded", f"trainer.executor={executor}",
        *([] if executor == "serial" else ["trainer.cohort=2"]),
    ]  # fmt: skip
    one = run_command(tmp_path / "one", *options)
    assert one == run_command(tmp_path / "two", *options, "trainer.devices=2")
    assert len(one) == 2
    assert one[-1]["loss/train"] < one[0]["loss/train"]
