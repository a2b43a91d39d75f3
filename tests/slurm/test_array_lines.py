"""The array script's reading of its file, without a cluster: `srun` only shows what it would start."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run_task(folder: Path, task: int, text: bytes, *further: str) -> subprocess.CompletedProcess[str]:
    (folder / "slurm").mkdir(exist_ok=True)
    for name in ("array.sbatch", "site.sh"):
        (folder / "slurm" / name).write_bytes((REPOSITORY / "slurm" / name).read_bytes())
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "srun").write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    (folder / "bin" / "srun").chmod(0o755)
    (folder / "sweep.txt").write_bytes(text)
    environment = os.environ | {
        "PATH": f"{folder}/bin:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(folder), "SLURM_ARRAY_TASK_ID": str(task),
    }  # fmt: skip
    command = ["bash", "slurm/array.sbatch", "sweep.txt", *further]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (b"seed=1 program.tau=0.1\r\n", "<seed=1><program.tau=0.1>"),
        (b"\xef\xbb\xbf  seed=1\t \r\n", "<seed=1>"),
        (b"\"name='a b'\" tags=['x,y']", "<name='a b'><tags=[x,y]>"),
        (b"'name='\"'\"'it\\'\"'\"'s'\"'\"''\n", "<name='it\\'s'>"),
        (b"name=null a=1.5e-08 'b=[1, 2]'\n", "<name=null><a=1.5e-08><b=[1, 2]>"),
    ],
)
def test_a_line_is_handed_on_whole(text: bytes, overrides: str, tmp_path: Path) -> None:
    done = run_task(tmp_path, 1, text, "name=c d")
    assert done.returncode == 0
    assert done.stdout.endswith(f"<resume=auto><hydra.run.dir=multirun/sweep/1>{overrides}<name=c d>")


def test_options_of_an_earlier_submission_are_not_kept(tmp_path: Path) -> None:
    common = tmp_path / "multirun" / "sweep" / "common.txt"
    assert run_task(tmp_path, 1, b"seed=1\n", "name=c d", "trainer.rounds=2").returncode == 0
    assert common.read_text() == "name=c d\ntrainer.rounds=2\n"
    assert run_task(tmp_path, 1, b"seed=1\n").returncode == 0
    assert common.read_text() == ""
    assert sorted(path.name for path in common.parent.iterdir()) == ["common.txt", "overrides.txt"]


def test_a_broken_line_fails_its_task(tmp_path: Path) -> None:
    done = run_task(tmp_path, 2, b"seed=1\nseed=2 name=it's\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "line 2 of sweep.txt cannot be split into overrides: seed=2 name=it's" in done.stderr
    assert run_task(tmp_path, 3, b"seed=1\nseed=2\n").returncode == 2
    assert run_task(tmp_path, 0, b"seed=1\n").returncode == 2


def test_comments_and_empty_lines_are_no_runs(tmp_path: Path) -> None:
    for task in (1, 2):
        done = run_task(tmp_path, task, b" # seeds\r\n\r\nseed=1\r\n")
        assert (done.returncode, done.stdout) == (0, f"line {task} of sweep.txt is no run\n")
