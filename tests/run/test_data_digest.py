"""A run goes on with the data it began with, or is refused by the name of what is different."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import fedpurin
from fedpurin.__main__ import main
from fedpurin.config import ConfigError
from fedpurin.data import Partition, labelled_data
from fedpurin.run import data_digest
from fedpurin.run.checkpoint import find_all
from fedpurin.run.data_digest import check_data, describe_data, differences
from tests.methods.tiny import OVERRIDES, TEST, TRAIN, Tiny

SPLITS = ("training", "test")
X, Y = torch.arange(24.0).reshape(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def described(
    x: torch.Tensor = X, y: torch.Tensor = Y, names: str = "abc", first: tuple[int, ...] = (0, 1, 2)
) -> dict[str, Any]:
    """Both pools are (x, y); of two clients one holds `first`."""
    data = labelled_data("toy", (x, y), (x, y), tuple(names))
    dealt = (np.array(first), np.array([i for i in range(len(y)) if i not in first]))
    counts = np.zeros((2, 3), dtype=np.int64)
    return describe_data(data, Partition(dealt, dealt, counts, counts))


def changed(at: int) -> torch.Tensor:
    x = X.clone()
    x[at, 3] += 0.001
    return x


def test_each_difference_is_named() -> None:
    began = described()
    assert differences(began, json.loads(json.dumps(described()))) == []
    for now, lines in (
        (described(names="abd"), ["the classes are a, b, d (they were a, b, c)"]),
        (described(X[:5], Y[:5]), ["there are 5 training samples (there were 6)", "there are 5 test samples (there were 6)"]),
        (described(X[:, :3]), [f"the {name} samples are [3] float32 (they were [4] float32)" for name in SPLITS]),
        (described(changed(5)), [f"the {name} inputs are not what they were" for name in SPLITS]),
        (described(y=Y.flip(0)), [f"the {name} labels are not what they were" for name in SPLITS]),
        (described(first=(0, 1, 3)), ["clients hold other samples than they did (the partition has changed)"]),
        (described(first=(0, 1)), ["clients hold other samples than they did (the partition has changed)"]),
    ):  # fmt: skip
        assert differences(began, now) == lines


def test_of_a_large_pool_samples_at_equal_distances_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_digest, "SAMPLED_BYTES", 3 * 16)  # samples 0, 2 and 4
    began = described()
    assert [bool(differences(began, described(changed(at)))) for at in range(6)] == [
        True,
        False,
        True,
        False,
        True,
        False,
    ]


def test_a_checkpoint_of_an_earlier_version_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_data(tmp_path, None, described())
    assert "does not tell whether the data are the same" in caplog.text


def test_a_resume_on_other_data_is_refused_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def simulate(train: TensorDataset, *more: str, **arguments: Any) -> fedpurin.RunResult:
        options = [*OVERRIDES, "method=local", "checkpoint.every=1", *more]
        return fedpurin.simulate(options, module=Tiny(), train=train, test=TEST, run_dir=tmp_path, **arguments)

    simulate(TRAIN)
    assert find_all(tmp_path)[0].read_state()["data"]["train"]["samples"] == 90
    x, y = TRAIN.tensors
    files = ("partition.json", "summary.json", "metrics.jsonl", "config.yaml")
    before = [(tmp_path / name).read_bytes() for name in files]
    with pytest.raises(ConfigError, match=r"there are 96 training samples \(there were 90\)"):
        simulate(TensorDataset(torch.cat([x, x[:6]]), torch.cat([y, y[:6]])), "trainer.rounds=3", "resume=auto")
    other = y.clone()
    other[0] = (other[0] + 1) % 3
    with pytest.raises(ConfigError, match="the training labels are not what they were"):
        simulate(TensorDataset(x, other), "trainer.rounds=3", "resume=auto")
    assert [(tmp_path / name).read_bytes() for name in files] == before

    assert main(["resume", str(tmp_path), "trainer.rounds=3"]) == 2
    line = capsys.readouterr().err
    assert "its data and model came from Python" in line
    assert f'simulate([..., "resume=auto"], train=..., test=..., module=..., run_dir={str(tmp_path)!r})' in line

    (tmp_path / "partition.json").write_text("kept")
    assert len(simulate(TRAIN, "trainer.rounds=3", "resume=auto").history) == 3
    assert (tmp_path / "partition.json").read_text() == "kept"


def test_a_partition_that_alone_changes_is_refused(tmp_path: Path) -> None:
    dealt = {"train": [[0, 1, 2, 3], [4, 5, 6, 7]], "test": [[0, 1], [2, 3]]}
    file = tmp_path / "parts.json"
    options = [
        *OVERRIDES, "method=local", "checkpoint.every=1", "partition.num_clients=2",
        "partition=file", f"partition.file={file}",
    ]  # fmt: skip

    def simulate(*more: str) -> None:
        file.write_text(json.dumps(dealt))
        fedpurin.simulate([*options, *more], module=Tiny(), train=TRAIN, test=TEST, run_dir=tmp_path / "run")

    simulate()
    dealt["train"][1] = [4, 5, 6, 8]
    with pytest.raises(ConfigError, match="clients hold other samples than they did"):
        simulate("trainer.rounds=3", "resume=auto")


def test_a_changed_image_or_label_file_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, run_dir = tmp_path / "images", tmp_path / "run"
    for split in ("train", "test"):
        for number in range(16):
            path = root / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), number * 9).save(path)
    options = [
        "data=image_folder", f"data.root={root}", "model=mlp", "method=local", "partition=iid", "partition.num_clients=2",
        "partition.train_per_client=null", "partition.test_per_client=null", "trainer.rounds=1",
        "trainer.local_epochs=1", "trainer.accelerator=cpu", "callbacks.progress=null",
    ]  # fmt: skip
    assert main([*options, f"hydra.run.dir={run_dir}"]) == 0
    dealt = (run_dir / "partition.json").read_bytes()

    def resumed() -> str:
        capsys.readouterr()
        assert main(["resume", str(run_dir), "trainer.rounds=2"]) == 2
        return capsys.readouterr().err

    image = root / "train" / "a" / "2.png"
    before = image.read_bytes()
    Image.new("L", (8, 8), 255).save(image)
    assert "the training inputs are not what they were" in resumed()
    image.write_bytes(before)
    other = image.rename(root / "train" / "b" / "2.png")  # a label is the name of a folder
    assert "the training labels are not what they were" in resumed()
    other.rename(image)
    assert (run_dir / "partition.json").read_bytes() == dealt
    assert main(["resume", str(run_dir), "trainer.rounds=2"]) == 0
