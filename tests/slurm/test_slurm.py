"""The job scripts on a real controller: arrays, several tasks, requeue, preemption, failures, Hydra's launcher."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fedpurin.cli.sweep import command_for, find_runs
from tests.callbacks.wandb_server import WandbServer
from tests.integration.test_resume import assert_same_folders
from tests.slurm.conftest import REPOSITORY, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]

RUN = [
    "partition.num_clients=5", "partition.train_per_client=60", "trainer.local_epochs=2", "trainer.batch_size=8",
    "trainer.threads=1", "trainer.accelerator=cpu", "checkpoint.every=4", "method.beta=20", "trainer.rounds=30",
]  # fmt: skip
SHORT = [*RUN[:-1], "trainer.rounds=2"]


@pytest.fixture(scope="module")
def whole(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    job = slurm.sbatch("slurm/train.sbatch", *RUN, f"hydra.run.dir={folder}")
    slurm.wait(job, "COMPLETED")
    return folder


def wait_until(true: Callable[[], bool], why: Callable[[], str], timeout: float = 400) -> None:
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, why()
        time.sleep(0.1)


def num_rounds(run_dir: Path) -> int:
    metrics = run_dir / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def test_an_array_of_three_of_which_one_fails_is_reported(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "study.txt"
    lines.write_text('seed=1 name="first one"\nseed=2\nseed=3 model._target_=no.such.Model\n')
    slurm.environment["SWEEP_DIR"] = str(tmp_path / "study")
    job = slurm.sbatch("--array=1-3%2", "slurm/array.sbatch", lines, *SHORT)
    slurm.wait(job, "COMPLETED", "FAILED")
    assert slurm.states(job) == {f"{job}_1": "COMPLETED", f"{job}_2": "COMPLETED", f"{job}_3": "FAILED"}
    runs = find_runs(tmp_path / "study")
    assert [(run.name, run.state) for run in runs] == [("1", "done"), ("2", "done"), ("3", "refused")]
    assert runs[2].error == "model._target_=no.such.Model cannot be found: Error locating target 'no.such.Model'" or (
        "no.such.Model" in runs[2].error
    )
    command = command_for(tmp_path / "study", runs)
    assert command is not None
    assert command.startswith(f"SWEEP_DIR={tmp_path / 'study'} sbatch --array=3 slurm/array.sbatch ")
    assert "name: first one" in (tmp_path / "study" / "1" / "config.yaml").read_text()
    # Submitted again, the runs that are done are left alone.
    metrics = (tmp_path / "study" / "1" / "metrics.jsonl").read_bytes()
    again = slurm.sbatch("--array=1", "slurm/array.sbatch", lines, *SHORT)
    slurm.wait(again, "COMPLETED")
    assert "finished already" in slurm.logs(again)
    assert (tmp_path / "study" / "1" / "metrics.jsonl").read_bytes() == metrics


def test_two_tasks_on_a_node_local_disk_give_the_same_bits(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "local"
    job = slurm.sbatch("--ntasks-per-node=2", "slurm/train.sbatch", *RUN, f"hydra.run.dir={folder}")
    slurm.wait(job, "COMPLETED")
    assert_same_folders(whole, folder)


def test_a_signal_requeues_the_job_and_the_bits_are_the_same(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = slurm.sbatch("slurm/train.sbatch", *RUN, f"hydra.run.dir={folder}")
    wait_until(lambda: num_rounds(folder) >= 2, lambda: slurm.logs(job))
    slurm.call("scancel", "-s", "USR1", job)
    slurm.release(job)
    slurm.wait(job, "COMPLETED")
    assert_same_folders(whole, folder)
    starts = json.loads((folder / "environment.json").read_text())["starts"]
    assert [start["slurm_restart_count"] for start in starts] == [None, "1"]
    assert starts[1]["first_round"] >= 2


def test_a_preempted_job_goes_on_after_the_urgent_one(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = slurm.sbatch("--cpus-per-task=4", "slurm/train.sbatch", *RUN, f"hydra.run.dir={folder}")
    wait_until(lambda: num_rounds(folder) >= 2, lambda: slurm.logs(job))
    urgent = slurm.sbatch("--partition=urgent", "--cpus-per-task=4", "--job-name=urgent", "--wrap", "sleep 2")
    slurm.wait(urgent, "COMPLETED")
    slurm.release(job)
    slurm.wait(job, "COMPLETED")
    assert_same_folders(whole, folder)
    starts = json.loads((folder / "environment.json").read_text())["starts"]
    assert len(starts) == 2


def test_a_hydra_sweep_through_the_launcher(slurm: Cluster, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    tools = tmp_path / "bin"
    tools.mkdir()
    # This cluster keeps no accounts; submitit asks sacct how its jobs are.
    (tools / "sacct").write_text('#!/bin/sh\necho "JobID|State|NodeList"\nsqueue -h -r -t all -o "%i|%T|%N"\n')
    (tools / "sacct").chmod(0o755)
    environment = slurm.environment | {"PATH": f"{tools}:{slurm.environment['PATH']}"}
    sweep = tmp_path / "sweep"
    command = [sys.executable, "-m", "fedpurin", "-m", "launcher=slurm", "seed=1,2", *SHORT, f"hydra.sweep.dir={sweep}"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [(run.name, run.state) for run in find_runs(sweep)] == [("0", "done"), ("1", "done")]


def test_an_agent_that_is_requeued_finishes_its_run(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    """W&B's own agent, on a stand-in for W&B's server, which hands a preempted run out again as W&B does."""
    server = WandbServer()
    server.start()
    server.sweep = yaml.safe_load((REPOSITORY / "configs/sweeps/tau.yaml").read_text())
    values = dict(option.split("=", 1) for option in [*RUN, f"hydra.run.dir={tmp_path / 'run'}"])
    arguments = {name: {"value": value} for name, value in values.items()}
    server.queue = [{"type": "run", "run_id": "swept", "program": "fedpurin", "args": arguments}] * 2
    cluster = Cluster(slurm.folder)
    cluster.environment |= {"WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40}
    try:
        job = cluster.sbatch("slurm/wandb_agent.sbatch", "tester/fedpurin/sweep1")
        wait_until(lambda: num_rounds(tmp_path / "run") >= 2, lambda: cluster.logs(job))
        cluster.call("scancel", "-b", "-s", "USR1", job)
        cluster.release(job)
        cluster.wait(job, "COMPLETED")
    finally:
        server.stop()
    assert_same_folders(whole, tmp_path / "run")
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"]
    assert [start["slurm_restart_count"] for start in starts] == [None, "1"]
    assert [run.name for run in server.runs.values()] == ["swept"]
    assert server.runs["swept"].rounds == list(range(30))
    assert server.queue == []


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_the_scripts_are_clean() -> None:
    scripts = sorted((REPOSITORY / "slurm").glob("*.sbatch"))
    assert len(scripts) == 4
    subprocess.run(["shellcheck", "-x", *scripts, "slurm/site.sh"], cwd=REPOSITORY, check=True)
