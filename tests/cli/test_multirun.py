"""A sweep tells where it is, what failed, and ends with a table and the next command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedpurin.cli.multirun import Multirun
from fedpurin.config import ConfigError
from fedpurin.run.resume import note_refusal


def test_runs_are_counted_and_failures_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Multirun(3)
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    sweep.begin(["seed=1"], tmp_path)
    sweep.end(tmp_path / "0")
    sweep.begin(["seed=2"], tmp_path)
    error = ConfigError("partition.num_clients=5000 is too many\nsecond line")
    note_refusal(tmp_path / "1", error)
    sweep.end(tmp_path / "1", error)
    captured = capsys.readouterr()
    assert captured.out == "run 1 of 3: seed=1\nrun 2 of 3: seed=2  (about 0:00:00 left)\n"
    assert captured.err == f"fedpurin: run 2 of 3 refused: partition.num_clients=5000 is too many ({tmp_path}/1)\n"
    assert sweep.close() == 1
    out = capsys.readouterr().out
    assert "2 of 3 runs in 0:00:00, best first" in out
    assert f"1 failed: fedpurin sweep status {tmp_path}\ncompare them: fedpurin report {tmp_path}\n" in out


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_run_that_is_refused(tmp_path: Path) -> None:
    quick = ["trainer.rounds=1", "trainer.local_epochs=1", "partition.train_per_client=40", "method=local"]
    command = [sys.executable, "-m", "fedpurin", "-m", *quick, "partition.num_clients=0,5000,2"]
    done = subprocess.run([*command, f"hydra.sweep.dir={tmp_path}/s"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "fedpurin: run 1 of 3 refused: partition.num_clients=0 is not possible" in done.stderr
    assert "fedpurin: run 2 of 3 refused: partition.num_clients=5000" in done.stderr
    assert "run 3 of 3: " in done.stdout
    assert done.stdout.count("refused  ") == 2
    assert f"compare them: fedpurin report {tmp_path}/s" in done.stdout
