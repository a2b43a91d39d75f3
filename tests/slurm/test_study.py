"""A study's runs as a job array: `fedpurin reproduce --expand` writes the lines, `reproduce` finds the runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.conftest import REPOSITORY, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]


def test_a_study_runs_as_an_array(slurm: Cluster, tmp_path: Path) -> None:
    def reproduce(option: str) -> list[str]:
        command = [
            sys.executable,
            "-m",
            "fedpurin",
            "reproduce",
            "field",
            "--quick",
            "--runs",
            str(tmp_path / "runs"),
            option,
        ]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout.splitlines()

    lines = reproduce("--expand")
    file = tmp_path / "field.txt"
    file.write_text("\n".join(lines) + "\n")
    slurm.environment["SWEEP_DIR"] = str(tmp_path / "sweep")
    job = slurm.sbatch("--array=1-2", "slurm/array.sbatch", file, "trainer.threads=1", "trainer.accelerator=cpu")
    slurm.wait(job, "COMPLETED")
    assert len(list((tmp_path / "runs" / "quick").glob("*/*/summary.json"))) == 2
    assert reproduce("--expand") == lines[2:]
    assert f"field: {len(lines)} runs, 2 done, {len(lines) - 2} missing" in reproduce("--status")
