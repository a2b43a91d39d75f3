"""The job scripts on a real controller: requeue, preemption, an array with failures, a W&B agent."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedpurin.cli.sweep import command_for, find_runs
from tests.callbacks.wandb_server import WandbServer
from tests.integration.test_resume import assert_same_folders
from tests.slurm.conftest import REPOSITORY, Cluster
from tests.slurm.gate import ROUNDS, RUN, gated, wait_at_gate, wait_for_signal, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]


def starts_of(run_dir: Path) -> list[dict[str, Any]]:
    starts: list[dict[str, Any]] = json.loads((run_dir / "environment.json").read_text())["starts"]
    return starts


def test_a_signal_requeues_the_job_and_the_bits_are_the_same(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    folder, gate = tmp_path / "run", tmp_path / "gate"
    job = slurm.sbatch("slurm/train.sbatch", *RUN, *gated(gate), f"hydra.run.dir={folder}")
    wait_at_gate(gate, folder, 1, lambda: slurm.logs(job))
    slurm.call("scancel", "-s", "USR1", job)
    wait_for_signal(folder, lambda: slurm.logs(job))
    gate.touch()
    slurm.release(job)
    slurm.wait(job, "COMPLETED")
    assert_same_folders(whole, folder)
    starts = [(start["slurm_restart_count"], start["first_round"]) for start in starts_of(folder)]
    assert starts == [(None, 0), ("1", 3)]


def test_a_time_limit_requeues_the_job(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    """The controller sends the signal of `--signal` itself, which it does twice a minute."""
    folder, gate = tmp_path / "run", tmp_path / "gate"
    options = ["--time=30", "--signal=USR1@150", "slurm/train.sbatch"]
    job = slurm.sbatch(*options, *RUN, *gated(gate), f"hydra.run.dir={folder}")
    wait_at_gate(gate, folder, 1, lambda: slurm.logs(job))
    days, _, clock = slurm.call("squeue", "-h", "-j", job, "-o", "%M").strip().rpartition("-")
    hours, minutes, _ = ["0", *clock.split(":")][-3:]
    minutes_spent = 1440 * int(days or 0) + 60 * int(hours) + int(minutes)
    slurm.call("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes_spent + 3}")
    wait_for_signal(folder, lambda: slurm.logs(job))
    gate.touch()
    wait_until(lambda: slurm.states(job) == {job: "PENDING"}, lambda: slurm.logs(job))
    slurm.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    slurm.release(job)
    slurm.wait(job, "COMPLETED")
    assert_same_folders(whole, folder)
    assert [start["first_round"] for start in starts_of(folder)] == [0, 3]


def test_an_array_of_eight_of_which_two_are_preempted_and_one_fails(slurm: Cluster, tmp_path: Path) -> None:
    sweep, gate, lines = tmp_path / "study", tmp_path / "gate", tmp_path / "study.txt"
    good = [f"name={name}" for name in ('"the first"', "b", "c", "d", "e", "f", "g")]
    lines.write_text("\n".join([*good, "model._target_=no.such.Model"]) + "\n")
    slurm.environment["SWEEP_DIR"] = str(sweep)
    command = ["slurm/array.sbatch", lines, "method=fedavg", *(option for option in RUN if "beta" not in option)]
    job = slurm.sbatch("--array=1-8", *command, *gated(gate))
    for task in range(1, 8):
        wait_at_gate(gate, sweep / str(task), 1, lambda: slurm.logs(job))
    wait_until(lambda: slurm.states(job)[f"{job}_8"] == "FAILED", lambda: slurm.logs(job))
    # On the node with all four CPUs in use, two have to leave.
    nodes = [line.split() for line in slurm.call("squeue", "-h", "-r", "-j", job, "-o", "%N %K").splitlines()]
    full = next(name for name in slurm.nodes if sum(node == name for node, *_ in nodes) == 4)
    urgent = slurm.sbatch(
        "--partition=urgent", f"--nodelist={full}", "--cpus-per-task=2", "--job-name=urgent", "--wrap=true"
    )
    logs = {task: sweep / str(task) / "fedpurin.log" for task in range(1, 8)}

    def preempted() -> list[int]:
        return [task for task, log in logs.items() if "finishing the round, at most" in log.read_text()]

    wait_until(lambda: len(preempted()) == 2, lambda: slurm.logs(job))
    gate.touch()
    slurm.wait(urgent, "COMPLETED")
    again = preempted()
    for task in again:
        slurm.release(f"{job}_{task}")
    slurm.wait(job, "COMPLETED", "FAILED")
    assert slurm.states(job) == {f"{job}_{task}": "FAILED" if task == 8 else "COMPLETED" for task in range(1, 9)}
    runs = find_runs(sweep)
    assert [(run.name, run.state) for run in runs] == [
        (str(task), "refused" if task == 8 else "done") for task in range(1, 9)
    ]
    assert "no.such.Model" in runs[7].error
    finish = command_for(sweep, runs)
    assert finish is not None
    assert finish.startswith(f"SWEEP_DIR={sweep} sbatch --array=8 slurm/array.sbatch ")
    assert "name: the first" in (sweep / "1" / "config.yaml").read_text()
    assert len(again) == 2
    untouched = next(task for task in range(1, 8) if task not in again)
    for task in range(1, 8):
        assert [start["first_round"] for start in starts_of(sweep / str(task))] == ([0, 3] if task in again else [0])
        assert_same_folders(sweep / str(untouched), sweep / str(task))
    # Submitted again, the runs that are done are left alone.
    metrics = (sweep / "1" / "metrics.jsonl").read_bytes()
    second = slurm.sbatch("--array=1", *command, *gated(gate))
    slurm.wait(second, "COMPLETED")
    assert "finished already" in slurm.logs(second)
    assert (sweep / "1" / "metrics.jsonl").read_bytes() == metrics


def test_an_agent_that_is_requeued_finishes_its_run(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    """W&B's own agent, on a stand-in for W&B's server, which hands a preempted run out again as W&B does."""
    folder, gate = tmp_path / "run", tmp_path / "gate"
    server = WandbServer()
    server.start()
    server.sweep = yaml.safe_load((REPOSITORY / "configs/sweeps/tau.yaml").read_text())
    values = dict(option.split("=", 1) for option in [*RUN, *gated(gate), f"hydra.run.dir={folder}"])
    arguments = {name: {"value": value} for name, value in values.items()}
    server.queue = [{"type": "run", "run_id": "swept", "program": "fedpurin", "args": arguments}] * 2
    cluster = Cluster(slurm.folder, slurm.nodes)
    cluster.environment |= {"WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40}
    try:
        job = cluster.sbatch("slurm/wandb_agent.sbatch", "tester/fedpurin/sweep1")
        wait_at_gate(gate, folder, 1, lambda: cluster.logs(job))
        cluster.call("scancel", "-b", "-s", "USR1", job)
        wait_for_signal(folder, lambda: cluster.logs(job))
        gate.touch()
        cluster.release(job)
        cluster.wait(job, "COMPLETED")
    finally:
        server.stop()
    assert_same_folders(whole, folder)
    assert [start["slurm_restart_count"] for start in starts_of(folder)] == [None, "1"]
    assert [run.name for run in server.runs.values()] == ["swept"]
    assert server.runs["swept"].rounds == list(range(ROUNDS))
    assert server.queue == []


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_the_scripts_are_clean() -> None:
    scripts = sorted((REPOSITORY / "slurm").glob("*.sbatch"))
    assert len(scripts) == 4
    subprocess.run(["shellcheck", "-x", *scripts, "slurm/site.sh"], cwd=REPOSITORY, check=True)
