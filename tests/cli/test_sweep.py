"""Sweeps: the state of each run from its folder, the command that finishes them, W&B files as overrides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fedpurin.__main__ import main
from fedpurin.cli.sweep import command_for, expand, find_runs
from fedpurin.config import ConfigError
from fedpurin.run.compose import compose_config
from fedpurin.run.lock import RunLock

SWEEPS = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))


def make_run(run_dir: Path, rounds: int, **summary: str) -> None:
    run_dir.mkdir(parents=True)
    (run_dir / "summary.json").write_text(json.dumps(summary))
    (run_dir / "metrics.jsonl").write_text('{"round": 0}\n' * rounds)


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
        f"fedpurin -m seed=1,2,3,4,5 'name='\"'\"'a b'\"'\"'' hydra.sweep.dir={tmp_path} resume=auto"
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


def test_a_grid_becomes_every_combination() -> None:
    sweep = {
        "parameters": {"program.tau": {"values": [0.1, 0.5]}, "method": {"value": "fedavg"}, "seed": {"values": [1]}}
    }
    assert expand(sweep, None, 0) == ["program.tau=0.1 method=fedavg seed=1", "program.tau=0.5 method=fedavg seed=1"]


def test_distributions_are_drawn_the_same_every_time() -> None:
    sweep = {"parameters": {"a": {"min": 0.0, "max": 1.0}, "b": {"min": 1, "max": 9}, "c": {"values": ["x"]}}}
    with pytest.raises(ConfigError, match="a, b: not a list of values"):
        expand(sweep, None, 0)
    assert expand(sweep, 3, 1) == expand(sweep, 3, 1)
    assert expand(sweep, 3, 1) != expand(sweep, 3, 2)
    with pytest.raises(ConfigError, match="distribution beta is not known"):
        expand({"parameters": {"a": {"distribution": "beta", "min": 0, "max": 1}}}, 1, 0)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_run_of_the_sweeps_that_ship_composes(path: Path) -> None:
    sweep = yaml.safe_load(path.read_text())
    lines = expand(sweep, None if sweep["method"] == "grid" else 4, 0)
    for line in (lines[0], lines[-1]):
        config, _ = compose_config(["logger=[csv,wandb]", *line.split()])
        assert config.logger.keys() == {"wandb"}
    assert "${args_no_hyphens}" in sweep["command"]
