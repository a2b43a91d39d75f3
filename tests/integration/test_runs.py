"""Whole runs: the user's own module and images, partial participation, divergence, equal bits on equal seeds."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset
from torchmetrics.classification import MulticlassAccuracy

import fedpurin
from fedpurin.federation import RunError

QUICK = [
    "partition.num_clients=4", "trainer.rounds=2", "trainer.local_epochs=1", "trainer.accelerator=cpu",
    "trainer.threads=1", "checkpoint.every=0",
]  # fmt: skip


class Users(LightningModule):
    """What a user may bring: dropout, layer norm, a dict from training_step, a schedule, a torchmetrics object."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        self.val_acc = MulticlassAccuracy(num_classes=3, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return {"loss": loss}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.val_acc.update(self.net(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        self.log("val_acc", self.val_acc)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def users_data(num: int, seed: int) -> TensorDataset:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 12, generator=g)
    return TensorDataset(x, x[:, :3].argmax(1))


def test_a_users_module_and_data_in_a_few_lines(tmp_path: Path) -> None:
    result = fedpurin.simulate(
        [*QUICK, "trainer.rounds=6", "trainer.local_epochs=3", "trainer.batch_size=16"],
        module=Users(), train=users_data(400, 1), test=users_data(200, 2), run_dir=tmp_path,
    )  # fmt: skip
    assert result.summary["accuracy/personalized"] > 0.6
    assert result.history[-1]["round"] == 5
    assert {s.name for s in result.federation.trainer.space.layout if s.is_norm} == {"net.1.weight", "net.1.bias"}


def test_image_folders_of_grey_and_colour_images_of_odd_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for label, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                height, width = rng.integers(17, 40, size=2)
                shape = (height, width, 3) if index % 2 else (height, width)
                pixels = np.clip(rng.normal(level, 20, size=shape), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    result = fedpurin.simulate(
        [
            *QUICK, "data=image_folder", f"data.root={tmp_path}/images", "data.image_size=20", "partition=iid",
            "partition.num_clients=2", "trainer.batch_size=4", "trainer.rounds=4",
        ],
        run_dir=tmp_path / "run",
    )  # fmt: skip
    assert result.summary["accuracy/personalized"] > 0.8


def test_equal_seeds_give_equal_bits_and_others_do_not(tmp_path: Path) -> None:
    def vectors(name: str, seed: int) -> list[Tensor]:
        result = fedpurin.simulate([*QUICK, f"seed={seed}", "data=digits"], run_dir=tmp_path / name)
        return [client.vector for client in result.federation.clients.values()]

    first, second, other = vectors("a", 1), vectors("b", 1), vectors("c", 2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_clients_fit_does_not_depend_on_who_else_took_part(tmp_path: Path) -> None:
    """The first round's personalised model of a client, alone in the round and in company."""
    everyone = fedpurin.simulate([*QUICK, "trainer.rounds=1", "method=local"], run_dir=tmp_path / "all")
    some = fedpurin.simulate(
        [*QUICK, "trainer.rounds=1", "method=local", "trainer.clients_per_round=2"], run_dir=tmp_path / "some"
    )
    took_part = [int(row["client"]) for row in csv.DictReader((tmp_path / "some" / "clients.csv").open())]
    assert len(took_part) == 2
    for client_id, client in some.federation.clients.items():
        same = torch.equal(client.vector, everyone.federation.clients[client_id].vector)
        assert same == (client_id in took_part)


def test_clients_that_sit_out_neither_send_nor_change(tmp_path: Path) -> None:
    run = [*QUICK, "trainer.clients_per_round=2", "trainer.rounds=3"]
    fedpurin.simulate(run, run_dir=tmp_path)
    rows = list(csv.DictReader((tmp_path / "clients.csv").open()))
    assert [sum(int(row["round"]) == r for row in rows) for r in range(3)] == [2, 2, 2]
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        mine = [row for row in rows if int(row["round"]) == record["round"]]
        assert record["bytes/up"] == sum(int(row["bytes/up"]) for row in mine)


DIVERGING = [
    *QUICK, "model=custom", "model._target_=tests.modules.Diverging", "partition=pathological",
    "partition.classes_per_client=1", "partition.num_clients=10",
]  # fmt: skip


def test_a_diverging_client_keeps_its_last_good_state_and_sends_nothing(tmp_path: Path) -> None:
    result = fedpurin.simulate([*DIVERGING, "data=digits"], run_dir=tmp_path)
    rows = list(csv.DictReader((tmp_path / "clients.csv").open()))
    bad = {int(row["client"]) for row in rows if row["diverged"]}
    assert len(bad) == 1
    assert result.history[-1]["clients/diverged"] == 1
    for row in rows:
        assert (row["diverged"] == "loss is nan") == (int(row["client"]) in bad)
        assert (int(row["bytes/up"] or 0) == 0) == (int(row["client"]) in bad)
    fresh = fedpurin.simulate([*DIVERGING, "trainer.rounds=1", "method=local"], run_dir=tmp_path / "fresh")
    (client_id,) = bad
    assert torch.equal(result.federation.clients[client_id].vector, fresh.federation.clients[client_id].vector)
    assert all(torch.isfinite(client.vector).all() for client in result.federation.clients.values())


def test_on_divergence_stop_names_client_and_round(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"client \d diverged in round 1: loss is nan; trainer.on_divergence=stop"):
        fedpurin.simulate([*DIVERGING, "trainer.on_divergence=stop"], run_dir=tmp_path)


class Breaks(Users):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        if torch.is_grad_enabled() and len(batch[1]) > 4:  # the trial before the run has four samples
            raise KeyError("no such thing")
        return super().training_step(batch, batch_idx)


def test_a_failure_says_rank_client_round_and_stage(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="rank 0, client 0, round 1, local training: KeyError: 'no such thing'"):
        fedpurin.simulate(QUICK, module=Breaks(), train=users_data(80, 1), test=users_data(40, 2), run_dir=tmp_path)


def without_placement(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A run's records and rows without wall-clock and placement columns."""

    def keep(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if not name.endswith("seconds") and name != "rank"}

    records = [keep(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return records, [keep(row) for row in csv.DictReader((run / "clients.csv").open())]


@pytest.mark.parametrize("method", ["fedpurin_recommended", "fedavg"])
def test_two_processes_give_the_bits_of_one(tmp_path: Path, method: str) -> None:
    run = [*QUICK, "partition.num_clients=5", f"method={method}", "trainer.clients_per_round=4", "horizon=2"]
    fedpurin.simulate(run, run_dir=tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fedpurin"]
    if method == "fedavg":  # Fabric's own launcher
        command, run = [sys.executable, "-m", "fedpurin"], [*run, "trainer.devices=2"]
    done = subprocess.run([*command, *run, f"hydra.run.dir={tmp_path}/two"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert without_placement(tmp_path / "one") == without_placement(tmp_path / "two")


def test_what_the_user_brings_is_no_recorded_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    pool = TensorDataset(torch.randn(90, 12, generator=generator), torch.arange(90) % 3)
    overrides = [*QUICK, "method=local", "program.tau=0.3"]
    result = fedpurin.simulate(overrides, module=Users(), train=pool, test=pool, run_dir=tmp_path / "run")
    choices = result.federation.config.choices
    assert choices["method"] == "local"
    assert not {"data", "model"} & choices.keys()
    assert "fedpurin: program.tau has no effect: method=local exchanges no masks" in capsys.readouterr().err
