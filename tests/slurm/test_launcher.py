"""A Hydra sweep whose runs are jobs of their own, through submitit; one of them is requeued."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedpurin.cli.sweep import find_runs
from tests.integration.test_resume import assert_same_folders
from tests.slurm.conftest import REPOSITORY, Cluster
from tests.slurm.gate import RUN, gated, wait_at_gate, wait_for_signal
from tests.slurm.test_slurm import starts_of

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]


def test_a_run_that_is_requeued_finishes_and_so_does_the_sweep(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    tools, gate, sweep = tmp_path / "bin", tmp_path / "gate", tmp_path / "sweep"
    tools.mkdir()
    # This cluster keeps no accounts; submitit asks sacct how its jobs are.
    (tools / "sacct").write_text('#!/bin/sh\necho "JobID|State|NodeList"\nsqueue -h -r -t all -o "%i|%T|%N"\n')
    (tools / "sacct").chmod(0o755)
    environment = slurm.environment | {"PATH": f"{tools}:{slurm.environment['PATH']}"}
    options = [*RUN, *gated(gate), f"hydra.sweep.dir={sweep}", "hydra.launcher.name=launched"]
    command = [sys.executable, "-m", "fedpurin", "-m", "launcher=slurm", "name=a,b", *options]
    output = tmp_path / "output"

    def said() -> str:
        return output.read_text() + "".join(path.read_text() for path in sweep.glob(".submitit/*/*.out"))

    with output.open("w") as file:
        launcher = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=file, stderr=file)
    try:
        for number in (0, 1):
            wait_at_gate(gate, sweep / str(number), 1, said)
        job = slurm.call("squeue", "-h", "-r", "-n", "launched", "-o", "%F").split()[0]
        slurm.call("scancel", "-s", "USR2", f"{job}_1")
        wait_for_signal(sweep / "1", said)
        gate.touch()
        slurm.release(f"{job}_1")
        assert launcher.wait(timeout=900) == 0, said()
    finally:
        launcher.kill()
    assert [(run.name, run.state) for run in find_runs(sweep)] == [("0", "done"), ("1", "done")]
    assert [start["first_round"] for start in starts_of(sweep / "0")] == [0]
    assert [start["first_round"] for start in starts_of(sweep / "1")] == [0, 3]
    for number in (0, 1):
        assert_same_folders(whole, sweep / str(number))
