"""Faults of machines: a rank lost, a disk full, a folder that cannot be written, a clock that goes backwards.

Disks are real: a small tmpfs, where this process may mount one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fedpurin
from fedpurin import ConfigError
from fedpurin.local.client import Client
from fedpurin.local.store import DiskStore
from fedpurin.run.checkpoint import find_all
from fedpurin.run.place import FolderError, LogFile
from fedpurin.run.resume import is_finished
from fedpurin.run.stored_config import read_config
from tests.integration.test_resume import CLI, assert_same, assert_same_folders
from tests.methods.tiny import simulate

OPTIONS = ("method=fedpurin", "method.beta=4", "trainer.rounds=4", "checkpoint.every=1")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def mount(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["mount", *arguments, folder], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


def fill(disk: Path, but: int = 0) -> None:
    """Leave so many bytes free."""
    with (disk / "filler").open("wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free - but))


def test_a_full_disk_costs_checkpoints_and_not_the_run(
    disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = simulate(tmp_path / "whole", *OPTIONS)
    fill(disk, but=64 * 1024)  # enough for the growing files, not for a checkpoint
    result = simulate(disk / "run", *OPTIONS)
    assert_same(whole, result)
    said = (
        r"not written: No space left on device: it takes about [\d.]+ kB, [\d.]+ k?B are free; the one before it stands"
    )
    assert re.search(said, caplog.text)
    assert find_all(disk / "run") == []


def test_a_disk_that_is_full_from_the_start_is_told_in_a_line(disk: Path) -> None:
    """Hydra's own files are the first that do not fit; its traceback is not for the user."""
    fill(disk)
    command = [sys.executable, "-m", "fedpurin", "trainer.rounds=1", f"hydra.run.dir={disk / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.removeprefix("fedpurin: loading PyTorch ...\n").splitlines()
    assert line.startswith(
        f"fedpurin: hydra.run.dir={disk / 'run'} can no longer be written: No space left on device (0 B"
    )
    assert line.endswith(f"make space, then `fedpurin resume {disk / 'run'}` continues it")


def test_lines_of_the_log_that_find_no_space_wait_for_it(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, handler = logging.getLogger("a full disk"), LogFile(disk / "log")
    log.addHandler(handler)
    log.propagate = False  # whatever listens elsewhere is not meant
    try:
        fill(disk)
        log.warning("the first")
        (disk / "filler").unlink()
        log.warning("the second")
    finally:
        log.removeHandler(handler)
        handler.close()
    assert (disk / "log").read_text() == "the first\nthe second\n"
    assert capsys.readouterr().err == ""


def test_once_there_is_space_the_next_checkpoint_is_written(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    class MakesSpace:
        def on_round_start(self, federation: fedpurin.Federation) -> None:
            if len(federation.history) == 2:
                (disk / "filler").unlink()

    fill(disk, but=64 * 1024)
    simulate(disk / "run", *OPTIONS, "checkpoint.keep=9", callbacks=[MakesSpace()])
    assert [checkpoint.rounds_done for checkpoint in find_all(disk / "run")] == [4, 3]
    assert caplog.text.count("not written: No space left on device") == 2


def test_a_last_checkpoint_that_found_no_space_is_written_by_the_next_resume(disk: Path, tmp_path: Path) -> None:
    class Fills:
        def on_round_start(self, federation: fedpurin.Federation) -> None:
            if len(federation.history) == 3:
                fill(disk, but=32 * 1024)

    whole = simulate(tmp_path / "whole", *OPTIONS)
    simulate(disk / "run", *OPTIONS, callbacks=[Fills()])
    assert find_all(disk / "run")[0].rounds_done == 3
    assert not is_finished(read_config(disk / "run"), disk / "run")
    (disk / "filler").unlink()
    assert_same(whole, simulate(disk / "run", *OPTIONS, "resume=auto"))
    assert find_all(disk / "run")[0].rounds_done == 4
    assert is_finished(read_config(disk / "run"), disk / "run")


def test_a_run_that_a_full_disk_ended_goes_on_once_there_is_space(disk: Path, tmp_path: Path) -> None:
    class Fills:
        """Uses up the disk while a round trains."""

        def on_client_end(self) -> None:
            if (disk / "run" / "metrics.jsonl").exists() and not (disk / "filler").exists():
                fill(disk)

    whole = simulate(tmp_path / "whole", *OPTIONS)
    said = r"can no longer be written: No space left on device \(.* free there; .*\); make space, then `fedpurin resume"
    with pytest.raises(FolderError, match=said):
        simulate(disk / "run", *OPTIONS, callbacks=[Fills()])
    (disk / "filler").unlink()
    assert_same(whole, simulate(disk / "run", *OPTIONS, "resume=auto"))


def test_a_disk_of_clients_that_fills_up_is_named(disk: Path) -> None:
    fill(disk)
    none = torch.empty(0, dtype=torch.int64)
    with pytest.raises(OSError, match=r"clients\.store=disk: No space left on device for 4 MB more"):
        DiskStore(torch.device("cpu"), disk).put_back([Client(0, torch.zeros(1_000_000), {}, none, none)])


def test_a_read_only_folder_is_named(disk: Path) -> None:
    simulate(disk / "run", "method=local", "trainer.rounds=1", "checkpoint.every=1")
    small = ["method=local", "partition.num_clients=2", "trainer.rounds=1", "trainer.threads=1"]
    fedpurin = [sys.executable, "-m", "fedpurin"]
    subprocess.run([*fedpurin, *small, f"hydra.run.dir={disk / 'typed'}"], check=True, capture_output=True)
    before = {path: path.stat().st_mtime_ns for path in disk.rglob("*")}
    mount(disk, "-o", "remount,ro")
    for folder in ("run", "new"):
        with pytest.raises(
            ConfigError, match=f"hydra.run.dir={disk / folder} cannot be written: Read-only file system"
        ):
            simulate(disk / folder, "method=local", "trainer.rounds=2", "resume=auto")
    for command in (["resume", str(disk / "typed"), "trainer.rounds=2"], [f"hydra.run.dir={disk / 'new'}"]):
        done = subprocess.run([*fedpurin, *command], capture_output=True, text=True)
        assert done.returncode == 2
        assert "cannot be written: Read-only file system" in done.stderr
        assert done.stderr.removeprefix("fedpurin: loading PyTorch ...\n").count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in disk.rglob("*")} == before


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("faketime"), reason="faketime is not installed")
def test_a_clock_that_goes_backwards_overwrites_nothing_and_changes_no_bit(tmp_path: Path) -> None:
    """Hydra names folders by date and time, which come again; and a resumed run may find itself before its start."""
    whole = fedpurin.simulate([*CLI[3:], "trainer.rounds=2"], run_dir=tmp_path / "whole")
    train = ["faketime", "-f", "2026-01-02 03:04:05", *CLI, "trainer.rounds=1"]
    subprocess.run(train, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    run_dir = tmp_path / "outputs" / "2026-01-02" / "03-04-05"
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    subprocess.run(train, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert sorted(path.name for path in run_dir.parent.iterdir()) == ["03-04-05", "03-04-05-2"]
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before
    resume = ["faketime", "-f", "2026-01-01 03:04:05", sys.executable, "-m", "fedpurin", "resume", str(run_dir)]
    subprocess.run([*resume, "trainer.rounds=2"], check=True, stdout=subprocess.DEVNULL)
    assert_same_folders(whole.run_dir, run_dir)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", [1, 0])
def test_a_lost_rank_ends_the_run_by_name_and_the_run_goes_on_afterwards(victim: int, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run([*CLI, "trainer.rounds=8", f"hydra.run.dir={whole}"], check=True)
    command = [*CLI, "trainer.rounds=8", "trainer.devices=3", "resume=auto", f"hydra.run.dir={parts}"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not find_all(parts):
        assert run.poll() is None
        time.sleep(0.05)
    ranks = {0: run.pid} | {int(environment(child)["LOCAL_RANK"]): child for child in children(run.pid)}
    os.kill(ranks[victim], signal.SIGKILL)
    _, errors = run.communicate()  # the pipe is closed when every rank has ended
    assert run.returncode != 0
    assert f"fedpurin: rank {victim} of 3 did not finish the " in errors
    assert "Traceback" not in errors
    if victim != 0:
        summary = json.loads((parts / "summary.json").read_text())
        assert summary["status"] == "failed"
        assert summary["error"].startswith(f"RankLostError: rank {victim} of 3 did not finish the ")
    subprocess.run([sys.executable, "-m", "fedpurin", "resume", str(parts), "trainer.devices=2"], check=True)
    assert_same_folders(whole, parts)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "LOCAL_RANK=" in entry)
