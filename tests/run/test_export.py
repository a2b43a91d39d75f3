"""An exported client is the client: in plain PyTorch, in safetensors, and through Lightning."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedpurin.__main__ import main
from fedpurin.data import Pool, load
from fedpurin.run.compose import compose_config
from lightning_modules import ImageClassifier
from tests.methods.tiny import TEST, Tiny, simulate


class Tied(Tiny):
    """Two names for one weight, and one that no client trains."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.net[0]
        self.frozen = nn.Parameter(torch.arange(3.0), requires_grad=False)


@pytest.mark.parametrize("module", [Tiny, Tied])
def test_a_client_is_exported_as_it_is(tmp_path: Path, module: type[Tiny]) -> None:
    result = simulate(tmp_path, "method=fedpurin", "checkpoint.every=2", module=module())
    assert main(["export", str(tmp_path), "--client", "3"]) == 0
    trainer, client = result.federation.trainer, result.federation.clients[3]
    trainer.load(client)
    expected = trainer.module.eval()(TEST.tensors[0])

    umask = os.umask(0o027)
    os.umask(umask)
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in (tmp_path / "export").iterdir()}
    assert modes == {".safetensors": 0o666 & ~umask, ".ckpt": 0o666 & ~umask}

    plain = module()
    plain.load_state_dict(load_file(tmp_path / "export" / "client-3.safetensors"))
    assert torch.equal(plain.eval()(TEST.tensors[0]), expected)
    again = module.load_from_checkpoint(tmp_path / "export" / "client-3.ckpt", weights_only=True)
    assert torch.equal(again.eval()(TEST.tensors[0]), expected)
    loaded = torch.load(tmp_path / "export" / "client-3.ckpt", weights_only=True)["state_dict"]
    assert loaded.keys() == module().state_dict().keys()


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--client", "0"]) == 2
    assert "has no sound checkpoint (kept: none" in capsys.readouterr().err
    simulate(tmp_path, "method=local", "checkpoint.every=1")
    for arguments, message in (
        (["--client", "9"], "--client 9: the run has clients 0 to 3"),
        (["--client", "0", "--rounds", "7"], "has no checkpoint after 7 rounds (kept: 2, 1"),
        (["--client", "0", "--output", "/dev/null/x"], "--output /dev/null/x cannot be written"),
    ):
        capsys.readouterr()
        assert main(["export", str(tmp_path), *arguments]) == 2
        assert message in capsys.readouterr().err


class Sized(Tiny):
    """A class with arguments, one of which is a network."""

    def __init__(self, width: int = 2, head: nn.Module | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(6, width), head or nn.Linear(width, 3))


def test_the_arguments_of_a_module_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path, "method=local", "checkpoint.every=2", module=Sized(width=7))
    assert main(["export", str(tmp_path), "--client", "0"]) == 0
    path = tmp_path / "export" / "client-0.ckpt"
    assert f"Sized.load_from_checkpoint({str(path)!r})" in capsys.readouterr().out
    assert Sized.load_from_checkpoint(path, weights_only=True).net[0].out_features == 7


def test_an_argument_that_cannot_be_stored_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path, "method=local", "checkpoint.every=2", module=Sized(width=4, head=nn.Linear(4, 3)))
    assert main(["export", str(tmp_path), "--client", "0"]) == 0
    assert "client-0.ckpt', head=...)" in capsys.readouterr().out


class Silent(Tiny):
    """Arguments that nothing records."""

    def __init__(self, width: int = 2, *, depth: int = 1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, width), nn.Linear(width, 3))


def test_arguments_that_nothing_records_are_found_by_shapes_or_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(tmp_path, "method=local", "checkpoint.every=2", module=Silent(width=4))
    assert main(["export", str(tmp_path), "--client", "0"]) == 0
    out = capsys.readouterr().out
    assert "client-0.ckpt', depth=...)" in out
    assert "(width=4 was found by the weights' shapes: Silent recorded no arguments)" in out
    again = Silent.load_from_checkpoint(tmp_path / "export" / "client-0.ckpt", weights_only=True)
    assert again.net[0].out_features == 4


class Twice(Tiny):
    """Two arguments of which either makes the same weights."""

    def __init__(self, width: int = 2, other: int = 2) -> None:
        print("made")
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, max(width, other)), nn.Linear(max(width, other), 3))


def test_an_argument_is_not_guessed_where_two_would_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path / "a", "method=local", "checkpoint.every=2", module=Twice(width=4))
    assert capsys.readouterr().out.count("made") == 1  # the user's own call; the shapes' trials are quiet
    assert main(["export", str(tmp_path / "a"), "--client", "0"]) == 0
    assert "client-0.ckpt', other=..., width=...)" in capsys.readouterr().out
    simulate(tmp_path / "b", "method=local", "checkpoint.every=2", module=Twice())
    assert main(["export", str(tmp_path / "b"), "--client", "0"]) == 0
    assert "was found" not in capsys.readouterr().out


@pytest.mark.parametrize("method", ["fedavg", "ditto"])
def test_the_reported_accuracy_can_be_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    options = [
        "trainer.rounds=1", "trainer.accelerator=cpu", "partition.num_clients=2", "partition.train_per_client=60",
        "callbacks.progress=null", f"method={method}", "model=mlp", f"hydra.run.dir={tmp_path}",
    ]  # fmt: skip
    assert main(options) == 0
    assert main(["export", str(tmp_path), "--client", "1"]) == 0
    out = capsys.readouterr().out
    path = tmp_path / "export" / "client-1.ckpt"
    about = torch.load(path, weights_only=True)["fedpurin"]
    config = compose_config(options)[0]
    pool = load(config.data, config.seed).test
    assert isinstance(pool, Pool)
    mean, std = (torch.tensor(about["normalisation"][part]) for part in ("mean", "std"))
    chosen = torch.tensor(about["test_indices"])
    x = (pool.inputs[chosen].float() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    module = ImageClassifier.load_from_checkpoint(path, weights_only=True).cpu().eval()
    accuracy = float((module(x).argmax(1) == pool.labels[chosen]).float().mean())
    with (tmp_path / "clients.csv").open() as file:
        row = [row for row in csv.DictReader(file) if row["client"] == "1"][-1]
    reported = float(row["accuracy/merged" if method == "fedavg" else "accuracy/personalized"])
    assert accuracy == pytest.approx(reported, abs=1e-6)
    assert about["measured"]["accuracy"] == reported
    assert f"accuracy {reported:.4g} on its {len(chosen)} test samples" in out
    assert "images:        1 channels, 8 x 8 pixels" in out
    assert "class:         from lightning_modules.classifier import ImageClassifier\n" in out
    assert "pixels as the data set stores them: 0-255, of digits 0-16" in out


def test_raw_rows_of_a_table_are_coded_by_what_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(str(n % 7), "red" if n % 3 else "blue", "yes" if n % 7 > 3 else "no") for n in range(80)]
    table = tmp_path / "t.csv"
    table.write_text("age,colour,label\n" + "".join(",".join(row) + "\n" for row in rows))
    options = [
        "data=table", f"data.root={table}", "data.label=label", "model=mlp", "partition=iid", "partition.num_clients=2",
        "partition.train_per_client=null", "partition.test_per_client=null", "method=ditto", "trainer.rounds=1",
        "trainer.accelerator=cpu", "callbacks.progress=null", f"hydra.run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    assert main(options) == 0
    assert main(["export", str(tmp_path / "run"), "--client", "1"]) == 0
    about = torch.load(tmp_path / "run" / "export" / "client-1.ckpt", weights_only=True)["fedpurin"]
    age, colour = about["coding"]
    assert colour == {"column": "colour", "categories": ["blue", "red"]}
    out = capsys.readouterr().out
    assert f"inputs:        (age - {age['mean']:.6g}) / {age['std']:.6g}; a 0/1 for each colour of blue, red\n" in out
    data = load(compose_config(options)[0].data, 0)
    assert isinstance(data.train, Pool)
    coded = {
        tuple(torch.tensor([(float(a) - age["mean"]) / age["std"], c == "blue", c == "red"]).tolist())
        for a, c, _ in rows
    }
    assert {tuple(row) for row in data.train.inputs.tolist()} == coded


def test_a_backbone_of_somebody_elses_is_not_called() -> None:
    with pytest.raises(ValueError, match=r"os\.getcwd is none of lightning_modules\.backbones"):
        ImageClassifier({"_target_": "os.getcwd"})
