"""Sweeps: the state of each run by what its folder says, and the command that finishes those that are not done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedpurin.__main__ import main
from fedpurin.cli.sweep import command_for, find_runs
from fedpurin.run.lock import RunLock


def make_run(run_dir: Path, rounds: int, **summary: str) -> None:
    run_dir.mkdir(parents=True)
    (run_dir / "summary.json").write_text(json.dumps(summary))
    (run_dir / "metrics.jsonl").write_text('{"round": 0}\n' * rounds)


def record_start(run_dir: Path, *overrides: str, **composed: object) -> None:
    """What Hydra leaves of a start."""
    (run_dir / ".hydra").mkdir(parents=True, exist_ok=True)
    (run_dir / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    (run_dir / ".hydra" / "config.yaml").write_text(yaml.safe_dump(composed))


def record_sweep(sweep_dir: Path, *task: str) -> None:
    (sweep_dir / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"overrides": {"task": list(task)}}}))


def make_sweep(tmp_path: Path) -> RunLock:
    """Runs 0 to 4: done, failed, running, killed, missing."""
    make_run(tmp_path / "0", 3, status="finished")
    make_run(tmp_path / "1", 1, status="failed", error="RuntimeError: the power went")
    make_run(tmp_path / "2", 2, status="running")
    make_run(tmp_path / "3", 2, status="running")
    lock = RunLock(tmp_path / "2")
    lock.acquire()
    return lock


def test_a_multirun_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = {"hydra": {"overrides": {"task": ["seed=1,2,3,4,5", "name='a b'"]}}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(overrides))
    lock = make_sweep(tmp_path)
    runs = find_runs(tmp_path)
    assert [(run.name, run.state, run.rounds) for run in runs] == [
        ("0", "done", 3), ("1", "failed", 1), ("2", "running", 2), ("3", "stopped", 2), ("4", "missing", 0),
    ]  # fmt: skip
    assert runs[4].overrides.startswith("seed=5")
    assert command_for(tmp_path, runs) == (
        f"fedpurin resume {tmp_path}/1\nfedpurin resume {tmp_path}/3\n"
        f"fedpurin seed=5 \"name='a b'\" hydra.run.dir={tmp_path}/4 resume=auto"
    )
    assert main(["sweep", "status", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "5 runs, 1 done, 1 running, 1 failed, 1 stopped, 1 missing" in printed
    assert "RuntimeError: the power went" in printed
    lock.release()


def test_an_array_is_rerun_by_its_tasks(tmp_path: Path) -> None:
    (tmp_path / "overrides.txt").write_text("# seeds\nseed=1\n\nseed=2\n")
    (tmp_path / "common.txt").write_text("trainer.rounds=3\n")
    make_run(tmp_path / "2", 3, status="finished")
    runs = find_runs(tmp_path)
    assert [(run.name, run.state, run.overrides) for run in runs] == [
        ("2", "done", "seed=1"),
        ("4", "missing", "seed=2"),
    ]
    assert command_for(tmp_path, runs) == (
        f"SWEEP_DIR={tmp_path} sbatch --array=4 slurm/array.sbatch {tmp_path}/overrides.txt trainer.rounds=3"
    )
    make_run(tmp_path / "4", 3, status="finished")
    assert command_for(tmp_path, find_runs(tmp_path)) is None
    assert main(["sweep", "status", str(tmp_path)]) == 0


@pytest.mark.parametrize(("arguments", "message"), [(["/nowhere"], "no such folder"), (["{}"], "holds no sweep")])
def test_a_folder_without_a_sweep_is_a_mistake(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "status", *(argument.format(tmp_path) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_folders_with_names_of_their_own_are_known_by_their_overrides(tmp_path: Path) -> None:
    record_sweep(tmp_path, "method=local,fedavg", "seed=1,2")
    for folder, *overrides in (
        ("local/1", "method=local", "seed=1"),
        ("b,c=2", "method=fedavg", "seed=2", "resume=auto"),
    ):
        make_run(tmp_path / folder, 3, status="finished")
        record_start(tmp_path / folder, *overrides)
    record_start(tmp_path)  # a stray .hydra of the sweep's own folder
    runs = find_runs(tmp_path)
    assert [(run.name, run.overrides, run.state) for run in runs] == [
        ("1", "method=local seed=2", "missing"),
        ("2", "method=fedavg seed=1", "missing"),
        ("b,c=2", "method=fedavg seed=2", "done"),
        ("local/1", "method=local seed=1", "done"),
    ]
    assert command_for(tmp_path, runs) == (
        f"fedpurin method=local seed=2 hydra.run.dir={tmp_path}/1 resume=auto\n"
        f"fedpurin method=fedavg seed=1 hydra.run.dir={tmp_path}/2 resume=auto"
    )


def test_a_shuffled_sweep_is_not_dealt_again(tmp_path: Path) -> None:
    record_sweep(tmp_path, "seed=shuffle(range(1,7))", "method=glob([fedper,fedprox,fedpurin_r*])")
    for number, seed in enumerate((4, 1, 6, 3, 5)):
        make_run(tmp_path / str(number), 3, status="finished")
        record_start(tmp_path / str(number), f"seed={seed}", "method=fedper")
    runs = find_runs(tmp_path)
    assert [run.overrides for run in runs if run.state == "done"] == [
        f"seed={seed} method=fedper" for seed in (4, 1, 6, 3, 5)
    ]
    missing = {run.overrides for run in runs if run.state == "missing"}
    assert missing == {f"seed={seed} method=fedprox" for seed in range(1, 7)} | {
        f"seed={seed} method=fedpurin_recommended" for seed in range(1, 7)
    } | {"seed=2 method=fedper"}
    command = command_for(tmp_path, runs)
    assert command is not None
    folders = [line.split("hydra.run.dir=")[1].split()[0] for line in command.split("\n")]
    assert len(set(folders)) == 13
    assert not {f"{tmp_path}/{number}" for number in range(5)} & set(folders)


def test_a_folder_that_holds_another_run_is_refused_and_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_sweep(tmp_path, "seed=7,8")
    for number, seed in enumerate((1, 8)):
        make_run(tmp_path / str(number), 3, status="finished")
        (tmp_path / str(number) / "config.yaml").write_text(
            yaml.safe_dump({"seed": seed, "name": "a", "network": None})
        )
        record_start(tmp_path / str(number), f"seed={7 + number}", seed=7 + number, name="b", network={})
    runs = find_runs(tmp_path)
    assert [(run.state, run.error) for run in runs] == [
        ("refused", "the folder holds another run: seed=1, asked for 7"), ("done", ""),
    ]  # fmt: skip
    assert command_for(tmp_path, runs) is None
    assert main(["sweep", "status", str(tmp_path)]) == 1
    assert "1 cannot be finished here" in capsys.readouterr().out


def test_an_array_whose_line_was_changed_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "overrides.txt").write_bytes(b'\xef\xbb\xbfseed=1\r\nseed=3 name="first one"\r\nseed=4 name=\'b\r\n')
    for number, overrides in ((1, ["resume=auto", "seed=1"]), (2, ["resume=auto", "seed=2", "name=first one"])):
        make_run(tmp_path / str(number), 3, status="finished")
        record_start(tmp_path / str(number), *overrides)
    assert [(run.overrides, run.state, run.error) for run in find_runs(tmp_path)] == [
        ("seed=1", "done", ""),
        ('seed=3 name="first one"', "refused", "the folder holds another run: it was not started with seed=3"),
        ("seed=4 name='b", "refused", "line 3 of overrides.txt cannot be split: No closing quotation"),
    ]


def test_a_reader_who_has_seen_enough_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "overrides.txt").write_text("seed=1\n" * 20_000)
    command = f"{sys.executable} -m fedpurin sweep status {tmp_path} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path}: 20000 runs, 20000 missing\n"
    assert done.stderr == ""
