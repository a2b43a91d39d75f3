"""What goes while a run needs it: its folder, a rank that is stopped for good, the time to start. One line each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import fedpurin
from fedpurin.hooks import RunCallback
from fedpurin.methods import Round
from fedpurin.run.checkpoint import find_all
from fedpurin.run.place import FolderError
from tests.integration.test_faults import children, environment
from tests.integration.test_resume import CLI, assert_same, assert_same_folders
from tests.methods.tiny import simulate

LOADING = "fedpurin: loading PyTorch ...\n"
OPTIONS = ("method=fedpurin", "method.beta=4", "trainer.rounds=4", "checkpoint.every=1")


class Does:
    """Something in the third round."""

    def __init__(self, what: Callable[[], object]) -> None:
        self.what = what

    def on_round_start(self, federation: fedpurin.Federation) -> None:
        if len(federation.history) == 2:
            self.what()


def test_a_folder_that_is_moved_is_named_with_its_new_place_and_goes_on_there(tmp_path: Path) -> None:
    whole = simulate(tmp_path / "whole", *OPTIONS)
    was, now = tmp_path / "was", tmp_path / "now"
    with pytest.raises(FolderError) as failure:
        simulate(was, *OPTIONS, callbacks=[Does(lambda: was.rename(now))])
    assert str(failure.value) == (
        f"hydra.run.dir={was} was moved to {now} while the run went on; `fedpurin resume {now}` goes on after round 2"
    )
    assert not was.exists()
    assert_same(whole, simulate(now, *OPTIONS, "resume=auto"))


def test_a_folder_that_is_deleted_is_named_and_not_made_again(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(
        FolderError, match=f"hydra.run.dir={run_dir} is not there any more .deleted, moved, or its file"
    ):
        simulate(run_dir, *OPTIONS, callbacks=[Does(lambda: shutil.rmtree(run_dir))])
    assert not run_dir.exists()


def test_another_folder_in_its_place_is_left_alone(tmp_path: Path) -> None:
    run_dir, away = tmp_path / "run", tmp_path / "away"
    with pytest.raises(FolderError, match=f"was moved to {away}"):
        simulate(run_dir, *OPTIONS, callbacks=[Does(lambda: (run_dir.rename(away), run_dir.mkdir()))])
    assert list(run_dir.iterdir()) == []


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    def replace() -> None:
        (tmp_path / "metrics.jsonl").unlink()
        (tmp_path / "metrics.jsonl").mkdir()

    with pytest.raises(FolderError, match=r"can no longer be written: Is a directory \(metrics.jsonl\); `fedpurin res"):
        simulate(tmp_path, *OPTIONS, callbacks=[Does(replace)])


@pytest.mark.parametrize("name", ["clients.csv", "masks.jsonl"])
def test_a_record_that_is_removed_is_named_and_comes_back(name: str, tmp_path: Path) -> None:
    whole = simulate(tmp_path / "whole", *OPTIONS)
    run_dir = tmp_path / "run"
    with pytest.raises(
        FolderError, match=rf"{name} was removed while the run went on; `fedpurin resume .*after round 2"
    ):
        simulate(run_dir, *OPTIONS, callbacks=[Does((run_dir / name).unlink)])
    assert_same(whole, simulate(run_dir, *OPTIONS, "resume=auto"))


def wait_until(run: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    while not condition():
        assert run.poll() is None
        time.sleep(0.05)


def start(run_dir: Path, *options: str) -> subprocess.Popen[str]:
    command = [*CLI, *options, f"hydra.run.dir={run_dir}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("devices", [1, 2])
def test_a_folder_that_vanishes_is_one_line_of_the_command(devices: int, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with start(run_dir, "trainer.rounds=2000", f"trainer.devices={devices}") as run:
        wait_until(run, lambda: find_all(run_dir))
        run_dir.rename(tmp_path / "now")
        _, errors = run.communicate()  # the pipe is closed when every rank has ended
    assert run.returncode == 1
    (line,) = errors.replace(LOADING, "").splitlines()
    assert line.startswith(f"fedpurin: hydra.run.dir={run_dir} was moved to {tmp_path / 'now'} while the run went on; ")
    assert not run_dir.exists()


class FailsOnRankOne(RunCallback):
    """For a command: an error of one rank alone."""

    def on_round_start(self, federation: fedpurin.Federation, this_round: Round) -> None:
        if this_round.number == 2 and federation.processes.rank == 1:
            raise RuntimeError("a mistake of rank 1")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rank_that_fails_is_reported_once_and_the_others_end_quietly(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    fails = f"+callbacks.fails._target_={__name__}.FailsOnRankOne"
    with start(run_dir, "trainer.rounds=6", "trainer.devices=2", "checkpoint.every=1", fails) as run:
        _, errors = run.communicate()
    assert run.returncode == 1
    assert errors.count("Traceback") == 1, errors
    assert errors.endswith("fedpurin: rank 1: RuntimeError: a mistake of rank 1\n"), errors
    assert "did not finish" not in errors
    assert [checkpoint.rounds_done for checkpoint in find_all(run_dir)] == [2, 1]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", [1, 0])
def test_a_rank_that_is_stopped_for_good_is_ended_by_the_others(victim: int, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run([*CLI, "trainer.rounds=6", f"hydra.run.dir={whole}"], check=True, stdout=subprocess.DEVNULL)
    with start(parts, "trainer.rounds=6", "trainer.devices=2", "exchange.timeout_seconds=10") as run:
        wait_until(run, lambda: find_all(parts))
        ranks = {0: run.pid} | {int(environment(child)["LOCAL_RANK"]): child for child in children(run.pid)}
        os.kill(ranks[victim], signal.SIGSTOP)
        _, errors = run.communicate()
    assert f"rank {victim} of 2 did not finish the " in errors
    if victim:  # rank 0's log has what the ranks say on standard output
        assert f"rank 1 (process {ranks[1]}) was stopped, and is ended" in (parts / "fedpurin.log").read_text()
    assert run.returncode == (-signal.SIGKILL if victim == 0 else 1)
    subprocess.run([sys.executable, "-m", "fedpurin", "resume", str(parts), "trainer.devices=1"], check=True)
    assert_same_folders(whole, parts)


def listens_to(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_during_the_start_is_a_line(number: signal.Signals, tmp_path: Path) -> None:
    with start(tmp_path / "run") as run:
        wait_until(run, lambda: listens_to(run.pid, number))
        run.send_signal(number)
        _, errors = run.communicate()
    assert run.returncode == 128 + number
    assert (
        errors.removeprefix(LOADING)
        == f"fedpurin: stopped by {number.name} while it started; the same command begins again\n"
    )


@pytest.mark.slow
def test_a_signal_while_ranks_wait_for_each_other_ends_all_of_them(tmp_path: Path) -> None:
    with start(tmp_path / "run", "trainer.devices=3") as run:
        wait_until(run, lambda: len(children(run.pid)) > 1)
        for child in children(run.pid):
            os.kill(child, signal.SIGSTOP)  # it never gets there
        time.sleep(3)
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate()
    assert run.returncode == 128 + signal.SIGTERM
    assert (
        errors.removeprefix(LOADING) == "fedpurin: stopped by SIGTERM while it started; the same command begins again\n"
    )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", ["fabric", "torchrun"])
def test_a_sweep_of_two_runs_on_two_ranks_ends_in_order(tmp_path: Path, launcher: str) -> None:
    """Its second run begins while the first one's store may still be there."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fedpurin"]
    start = torchrun if launcher == "torchrun" else ["-m", "fedpurin", "trainer.devices=2"]
    command = [sys.executable, *start, *CLI[3:], "trainer.rounds=2", "-m", "seed=0,1,2", "hydra.sweep.dir=sweep"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 runs" in done.stdout
    for number in range(3):
        summary = json.loads((tmp_path / "sweep" / str(number) / "summary.json").read_text())
        assert (summary["status"], summary["rounds"]) == ("finished", 2)


@pytest.mark.slow
def test_a_chosen_folder_that_the_clock_names_is_the_first_ranks(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fedpurin"]
    command = [sys.executable, *torchrun, *CLI[3:], "trainer.rounds=1", "hydra.run.dir=out/${now:%S-%f}-${seed}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_script_of_two_runs_ends_in_order(tmp_path: Path) -> None:
    """Two runs of one process group, which is taken down when the script ends."""
    script = tmp_path / "script.py"
    script.write_text(
        "import fedpurin, sys\nfor seed in (0, 1):\n"
        "    fedpurin.simulate([*sys.argv[1:], f'seed={seed}'], run_dir=f'run-{seed}')\n"
    )
    command = [sys.executable, script, *CLI[3:], "trainer.rounds=2", "trainer.devices=2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "destroy_process_group" not in done.stderr
    for seed in (0, 1):
        assert json.loads((tmp_path / f"run-{seed}" / "summary.json").read_text())["status"] == "finished"
