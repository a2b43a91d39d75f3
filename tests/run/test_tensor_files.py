"""A checkpoint from somebody else is data: planted pickles, paths and sizes are refused by name and do nothing."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedpurin.exchange import Processes
from fedpurin.run.checkpoint import Checkpoint, CheckpointError, Writing


class Harm:
    """What a pickle can do when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


def save(run_dir: Path) -> Checkpoint:
    tensors = {"client/0/vector": torch.arange(5.0), "bits": torch.tensor([True]), "half": torch.ones(2).bfloat16()}
    return Writing(run_dir, 1, tensors, {"history": []}, Processes()).commit()


def plant(checkpoint: Checkpoint, change: Callable[[Any], Any]) -> None:
    """Put a changed `.metadata` into place, and make the manifest agree."""
    path = checkpoint.path / "tensors" / ".metadata"
    path.write_bytes(pickle.dumps(change(pickle.loads(path.read_bytes()))))
    manifest = json.loads((checkpoint.path / "manifest.json").read_text())
    data = path.read_bytes()
    manifest["files"]["tensors/.metadata"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (checkpoint.path / "manifest.json").write_text(json.dumps(manifest))
    checkpoint.verify()


def test_every_type_that_a_run_saves_is_read(tmp_path: Path) -> None:
    tensors = save(tmp_path).read_tensors(lambda key: True)
    assert {key: value.tolist() for key, value in tensors.items()} == {
        "client/0/vector": [0, 1, 2, 3, 4], "bits": [True], "half": [1, 1],
    }  # fmt: skip


def test_a_planted_pickle_runs_nothing(tmp_path: Path) -> None:
    checkpoint = save(tmp_path)

    def hide(metadata: Any) -> Any:
        metadata.planner_data = Harm(tmp_path / "harm")
        return metadata

    plant(checkpoint, hide)
    with pytest.raises(CheckpointError, match=r"round-00001: \.metadata wants to call .*, which no checkpoint does"):
        checkpoint.read_tensors(lambda key: True)
    assert not (tmp_path / "harm").exists()


def outside(metadata: Any) -> Any:
    for stored in metadata.storage_data.values():
        stored.relative_path = "../../../secret"
    return metadata


def huge(metadata: Any) -> Any:
    metadata.state_dict_metadata["bits"].size = torch.Size([2**50])
    return metadata


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (outside, r"\.metadata names a file outside the checkpoint: \.\./\.\./\.\./secret"),
        (huge, r"bits is larger than the files: \[1125899906842624\]"),
        (lambda metadata: [], r"\.metadata holds a list"),
        (lambda metadata: type(metadata)({}), r"\.metadata cannot be read \(AttributeError"),
    ],
)
def test_statements_that_cannot_be_true_are_refused(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    checkpoint = save(tmp_path)
    plant(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read_tensors(lambda key: True)


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "tensors/../../../secret", "other.json"])
def test_a_manifest_speaks_of_its_own_files_only(tmp_path: Path, name: str) -> None:
    checkpoint = save(tmp_path)
    path = checkpoint.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": ""}
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=f"manifest.json names {name}, which is not inside the checkpoint"):
        checkpoint.verify()


def test_a_link_out_of_the_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint = save(tmp_path)
    shutil.move(checkpoint.path / "state.json", tmp_path / "state.json")
    (checkpoint.path / "state.json").symlink_to(tmp_path / "state.json")
    with pytest.raises(CheckpointError, match=r"names state\.json, which is not inside the checkpoint"):
        checkpoint.verify()


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ([], r"manifest\.json cannot be read \(TypeError\)"),
        ({"rounds_done": 1, "files": {}}, r"manifest\.json does not name state\.json, tensors/\.metadata"),
        ({"rounds_done": 2, "files": {}}, r"manifest\.json is of the checkpoint after 2 rounds"),
        ({"rounds_done": 1, "files": {"state.json": None, "tensors/.metadata": 1}}, r"state\.json has other bytes"),
    ],
)
def test_a_manifest_that_is_none_is_named(tmp_path: Path, manifest: Any, message: str) -> None:
    checkpoint = save(tmp_path)
    (checkpoint.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.verify()
