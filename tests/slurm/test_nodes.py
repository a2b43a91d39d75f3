"""Several processes: on two SLURM nodes, on one node beside another job, under torchrun; and a node that dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_resume import assert_same_folders
from tests.slurm.conftest import REPOSITORY, Cluster
from tests.slurm.gate import RUN, free_ports, gated, wait_at_gate

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]
TWO_BY_TWO = ["--nodes=2", "--ntasks-per-node=2", "slurm/train.sbatch"]


def test_two_nodes_of_two_tasks_give_the_same_bits(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = slurm.sbatch(*TWO_BY_TWO, *RUN, f"hydra.run.dir={folder}")
    slurm.wait(job, "COMPLETED")
    assert "MEMBER: 4/4" in slurm.logs(job)
    assert_same_folders(whole, folder)


def test_a_node_that_dies_is_named_and_the_job_requeued(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    folder, gate = tmp_path / "run", tmp_path / "gate"
    job = slurm.sbatch(*TWO_BY_TWO, *RUN, *gated(gate), f"hydra.run.dir={folder}")
    wait_at_gate(gate, folder, 4, lambda: slurm.logs(job))
    dead = slurm.nodes[1]
    slurm.kill_node(dead, job)
    gate.touch()
    slurm.wait_until_said(job, "rank 2 of 4 and rank 3 of 4 did not finish")
    # What the controller finds by itself after SlurmdTimeout.
    slurm.call("scontrol", "update", f"NodeName={dead}", "State=DOWN", "Reason=dead")
    slurm.wait(job, "PENDING")
    said = json.loads((folder / "summary.json").read_text())
    assert said["status"] == "failed"
    assert said["error"].startswith("RankLostError: rank 2 of 4 and rank 3 of 4 did not finish the ")
    slurm.start_node(dead)
    slurm.release(job)
    slurm.wait(job, "COMPLETED")
    assert_same_folders(whole, folder)
    starts = json.loads((folder / "environment.json").read_text())["starts"]
    assert [(start["slurm_restart_count"], start["first_round"]) for start in starts] == [(None, 0), ("1", 2)]


def test_the_first_node_dies_and_the_job_goes_on_from_its_checkpoint(
    slurm: Cluster, whole: Path, tmp_path: Path
) -> None:
    """The batch script, srun and rank 0, who would say what happened and keep the records, are gone with it."""
    folder, gate = tmp_path / "run", tmp_path / "gate"
    job = slurm.sbatch(*TWO_BY_TWO, *RUN, *gated(gate), f"hydra.run.dir={folder}")
    wait_at_gate(gate, folder, 4, lambda: slurm.logs(job))
    dead = slurm.nodes[0]
    slurm.kill_node(dead, job)
    gate.touch()
    slurm.call("scontrol", "update", f"NodeName={dead}", "State=DOWN", "Reason=dead")
    slurm.wait(job, "PENDING")
    assert json.loads((folder / "summary.json").read_text())["status"] == "running"
    assert (folder / "metrics.jsonl").read_bytes().count(b"\n") == 2
    slurm.start_node(dead)
    slurm.release(job)
    slurm.wait(job, "COMPLETED")
    assert_same_folders(whole, folder)
    starts = json.loads((folder / "environment.json").read_text())["starts"]
    assert [(start["slurm_restart_count"], start["first_round"]) for start in starts] == [(None, 0), ("1", 2)]


def test_two_jobs_on_one_node_do_not_meet(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    folders = [tmp_path / "a", tmp_path / "b"]
    options = [f"--nodelist={slurm.nodes[1]}", "--ntasks-per-node=2", "slurm/train.sbatch", *RUN, *gated(gate)]
    jobs = [slurm.sbatch(*options, f"hydra.run.dir={folder}") for folder in folders]
    for folder, job in zip(folders, jobs, strict=True):
        wait_at_gate(gate, folder, 2, lambda job=job: slurm.logs(job))  # type: ignore[misc]
    gate.touch()
    for folder, job in zip(folders, jobs, strict=True):
        slurm.wait(job, "COMPLETED")
        assert_same_folders(whole, folder)


def test_torchrun_over_two_nodes_gives_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """Two agents on this machine, as torchrun is started on each node of a cluster without SLURM."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for attempt in range(3):
        folder = tmp_path / f"run-{attempt}"
        (port,) = free_ports(1)
        agents = []
        for node in range(2):
            command = [
                sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}", "--nproc-per-node=2",
                "--master-addr=127.0.0.1", f"--master-port={port}", "-m", "fedpurin", *RUN, f"hydra.run.dir={folder}",
            ]  # fmt: skip
            with (tmp_path / f"{attempt}-{node}.log").open("w") as log:
                agents.append(subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log))
        codes = [agent.wait() for agent in agents]
        said = "\n".join(path.read_text() for path in sorted(tmp_path.glob(f"{attempt}-*.log")))
        if codes == [0, 0] or "address already in use" not in said.lower():  # somebody took the port meanwhile
            break
    assert codes == [0, 0], said
    assert_same_folders(whole, folder)
