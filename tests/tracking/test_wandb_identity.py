"""WANDB_RUN_ID names one folder's run, never those of a whole sweep."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fedpurin.tracking import wandb_run


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "shared1")
    monkeypatch.setattr(wandb_run, "_used_here", set())


def identify(run_dir: Path) -> str:
    run_dir.mkdir(parents=True, exist_ok=True)
    return str(wandb_run.identity(run_dir)["id"])


def test_one_folder_takes_it_and_keeps_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert [identify(tmp_path / "a"), identify(tmp_path / "a")] == ["shared1", "shared1"]
    assert caplog.records == []


@pytest.mark.parametrize("file", ["multirun.yaml", "overrides.txt"])
def test_runs_of_a_sweep_get_their_own(tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / file).touch()
    with caplog.at_level(logging.WARNING):
        ids = {identify(tmp_path / name) for name in "12"}
    assert len(ids) == 2
    assert "shared1" not in ids
    assert "every run of the sweep would overwrite the others" in caplog.records[0].message


def test_a_second_folder_gets_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, there, beside = tmp_path / "a" / "1", tmp_path / "b" / "1", tmp_path / "a" / "2"
    assert identify(first) == "shared1"
    with caplog.at_level(logging.WARNING):
        assert identify(there) != "shared1"  # the same process
        wandb_run._used_here.clear()
        assert identify(beside) != "shared1"  # another process
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == [
        "an earlier run of this process has it",
        "the run in 1 has it",
    ]
