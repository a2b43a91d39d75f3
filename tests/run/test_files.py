"""Files of a run folder that would be waited for, or would fill the memory: refused at once."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fedpurin.cli.sweep import inspect
from fedpurin.config import ConfigError
from fedpurin.run import reader
from fedpurin.run.checkpoint import Checkpoint, CheckpointError
from fedpurin.run.files import SMALL_BYTES, open_file, read_file
from fedpurin.run.lock import RunLock
from fedpurin.run.stored_config import read_config, read_id
from fedpurin.tracking.wandb_run import identity


def holes(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


def to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def deep(path: Path) -> None:
    path.write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("make", "number"), [(os.mkfifo, errno.EINVAL), (os.mkdir, errno.EISDIR), (to_device, errno.EINVAL)]
)  # fmt: skip
def test_only_plain_files_are_opened(make: Callable[[Path], object], number: int, tmp_path: Path) -> None:
    make(tmp_path / "file")
    with pytest.raises(OSError) as refusal:  # noqa: PT011  its number is what counts
        open_file(tmp_path / "file")
    assert refusal.value.errno == number


def test_a_file_of_holes_does_not_fill_the_memory(tmp_path: Path) -> None:
    holes(tmp_path / "file")
    with pytest.raises(OSError, match=rf"It has {2**40} bytes, and at most {SMALL_BYTES} are expected"):
        read_file(tmp_path / "file")


@pytest.mark.parametrize("make", [os.mkfifo, holes, deep, os.mkdir])
def test_every_reader_ends(make: Callable[[Path], object], tmp_path: Path) -> None:
    names = (reader.SUMMARY, reader.METRICS, reader.CLIENTS, reader.MASKS, reader.CONFIG, "manifest.json", "wandb.json")
    for name in names:
        make(tmp_path / name)
    assert reader.read_summary(tmp_path) == {}
    assert reader.read_rounds(tmp_path) == []
    assert reader.read_masks(tmp_path)[0] == {}
    assert reader.read_ends(tmp_path / reader.METRICS) == ({}, {})
    assert reader.count_rounds(tmp_path) == 0
    with pytest.raises(reader.Unreadable, match=r"config.yaml cannot be read"):
        reader.read_options(tmp_path)
    with pytest.raises(ConfigError, match=r"config.yaml (cannot be read|is damaged)"):
        read_config(tmp_path)
    assert read_id(tmp_path) is None
    with pytest.raises(CheckpointError, match=r"manifest.json cannot be read"):
        Checkpoint(tmp_path, 1).verify()
    with pytest.raises(ConfigError, match=r"wandb.json is damaged: remove it, and the run becomes another one"):
        identity(tmp_path)


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(precious)
    with pytest.raises(ConfigError, match=r"run cannot be written: Too many levels of symbolic links"):
        RunLock(tmp_path / "run").acquire()
    assert precious.read_text() == "mine"


def test_a_configuration_that_repeats_itself_by_reference_is_not_unfolded(tmp_path: Path) -> None:
    """Ten lines that would be ten milliards of values."""
    (tmp_path / ".hydra").mkdir()
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11))]
    for name in ("config.yaml", ".hydra/config.yaml", ".hydra/overrides.yaml"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    (tmp_path / reader.METRICS).write_text('{"round": 0}\n')
    with pytest.raises(reader.Unreadable, match="it repeats parts of itself by reference"):
        reader.read_options(tmp_path)
    with pytest.raises(ConfigError, match=r"config.yaml is damaged"):
        read_config(tmp_path)
    assert reader.read_overrides(tmp_path) is None
    assert inspect(tmp_path).rounds == 1


def test_a_star_is_no_reference() -> None:
    reader.check_references(b"name: 'a *b'\ntags: [\"*\"]\n")


def test_a_file_of_a_checkpoint_that_has_grown_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    files = {name: {"bytes": 1, "sha256": ""} for name in ("lines/metrics.jsonl", "state.json", "tensors/.metadata")}
    (tmp_path / "manifest.json").write_text(json.dumps({"rounds_done": 1, "files": files}))
    holes(tmp_path / "lines" / "metrics.jsonl")
    with pytest.raises(CheckpointError, match=r"lines/metrics.jsonl has other bytes than were saved"):
        Checkpoint(tmp_path, 1).verify()
