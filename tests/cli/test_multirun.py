"""A sweep tells where it is, what failed, and ends with a table and the next command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedpurin.cli.multirun import Multirun, keep_folders
from fedpurin.cli.sweep import command_for, find_runs, planned_jobs
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


def test_a_sweep_that_is_stopped_says_how_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Multirun(3)
    sweep.stop()
    assert capsys.readouterr().err == ""  # it has not begun
    (tmp_path / "0").mkdir()
    sweep.begin(["seed=1"], tmp_path)
    sweep.end(tmp_path / "0")
    sweep.begin(["seed=2"], tmp_path)
    capsys.readouterr()
    sweep.stop()
    assert capsys.readouterr().err == (
        f"fedpurin: the sweep has 1 of 3 runs; the rest, with the commands for them: fedpurin sweep status {tmp_path}\n"
    )


def test_a_sweep_that_grows_keeps_its_folders(tmp_path: Path) -> None:
    for name, method, seed in (("0", "a", 1), ("1", "a", 2), ("2", "b", 1), ("3", "b", 2)):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text('{"round": 0}\n')
        own = ["trainer.rounds=1", f"method={method}", f"seed={seed}"]
        (tmp_path / name / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(own))
    sweep = ["trainer.rounds=2", "method=a,b", f"hydra.sweep.dir={tmp_path}", "resume=auto"]
    longer = [*sweep, "seed=1,2,3"]
    table = "+hydra.job.env_set.FEDPURIN_FOLDER_"
    assert keep_folders(planned_jobs(longer), longer) == [
        "hydra.sweep.subdir='${oc.select:hydra.job.env_set.FEDPURIN_FOLDER_${hydra.job.num}}'",
        f"{table}0='0'", f"{table}1='1'", f"{table}2='4'", f"{table}3='2'", f"{table}4='3'", f"{table}5='5'",
    ]  # fmt: skip
    same = [*sweep, "seed=1,2"]
    assert keep_folders(planned_jobs(same), same) == []
    own = [*longer, "hydra.sweep.subdir=x"]
    assert keep_folders(planned_jobs(own), own) == []


def test_runs_of_a_sweep_that_differ_in_their_length_keep_a_folder_each(tmp_path: Path) -> None:
    for name, rounds in (("0", 1), ("1", 2)):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text('{"round": 0}\n')
        (tmp_path / name / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([f"trainer.rounds={rounds}"]))
    table = "+hydra.job.env_set.FEDPURIN_FOLDER_"
    for asked, folders in (("1,2,3", []), ("3,2,1", ["2", "1", "0"]), ("2,3", ["1", "0"]), ("4,5,6", [])):
        sweep = [f"trainer.rounds={asked}", f"hydra.sweep.dir={tmp_path}", "resume=auto"]
        expected = [f"{table}{number}='{name}'" for number, name in enumerate(folders)]
        assert keep_folders(planned_jobs(sweep), sweep)[1:] == expected


@pytest.mark.slow
def test_a_sweep_is_extended_by_a_seed_in_its_folder(tmp_path: Path) -> None:
    quick = ["trainer.rounds=1", "trainer.local_epochs=1", "partition.train_per_client=40", "partition.num_clients=2"]
    command = [sys.executable, "-m", "fedpurin", "-m", *quick, "method=local,fedavg", f"hydra.sweep.dir={tmp_path}/s"]
    subprocess.run([*command, "seed=1"], check=True, capture_output=True)
    done = subprocess.run([*command, "seed=1,2", "resume=auto"], check=True, capture_output=True, text=True)
    assert done.stdout.count("finished already") == 2
    runs = [(run.name, run.state, run.overrides.split()[-2:]) for run in find_runs(tmp_path / "s")]
    assert runs == [
        ("0", "done", ["method=local", "seed=1"]),
        ("1", "done", ["method=fedavg", "seed=1"]),
        ("2", "done", ["method=local", "seed=2"]),
        ("3", "done", ["method=fedavg", "seed=2"]),
    ]


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


@pytest.mark.slow
def test_a_sweep_with_a_folder_of_configurations_takes_the_way_of_any_other(tmp_path: Path) -> None:
    """Flags stand anywhere; remarks and the command that finishes it know the folder, and none is left by a mistake."""
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text("_target_: fedpurin.methods.Local\n")
    quick = ["trainer.rounds=1", "trainer.local_epochs=1", "partition.train_per_client=40", "partition.num_clients=2"]
    command = [sys.executable, "-m", "fedpurin", *quick, "method=mine", "--config-dir", "conf", "-m", "seed=1,2"]
    done = subprocess.run(
        [*command, "program.tau=0.5", "hydra.sweep.dir=s"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "fedpurin: program.tau has no effect in 2 of 2 runs: method=mine exchanges no masks" in done.stderr
    assert "2 of 2 runs" in done.stdout
    (tmp_path / "s" / "1" / "summary.json").unlink()
    (tmp_path / "s" / "1" / "metrics.jsonl").unlink()
    (runs,) = [run for run in find_runs(tmp_path / "s") if run.state == "missing"]
    line = command_for(tmp_path / "s", [runs])
    assert line is not None
    assert f"hydra.searchpath=['file://{tmp_path}/conf']" in line.replace('"', "")
    bad = subprocess.run([*command[:-3], "nowhere", "-m", "seed=1,2"], cwd=tmp_path, capture_output=True, text=True)
    assert (bad.returncode, bad.stderr.splitlines()[-1]) == (
        2,
        "fedpurin: --config-dir nowhere: there is no such folder",
    )
    assert not (tmp_path / "multirun").exists()


BREAKS = """
import os
from lightning_modules import ImageClassifier

class Breaks(ImageClassifier):
    def __init__(self, backbone, fails=False, **options):
        super().__init__(backbone, **options)
        self.fails = fails

    def training_step(self, batch, batch_idx):
        if self.fails and self.round == 1 and os.environ["LOCAL_RANK"] == "1":
            raise RuntimeError("out of luck")
        return super().training_step(batch, batch_idx)
"""


@pytest.mark.slow
def test_a_sweep_whose_ranks_are_lost_ends_and_says_what_is_left(tmp_path: Path) -> None:
    """Refused runs leave the ranks in order for the next one; a run that fails on one of them does not."""
    (tmp_path / "own.py").write_text(BREAKS)
    quick = ["trainer.rounds=2", "trainer.local_epochs=1", "partition.train_per_client=40", "partition.num_clients=2"]
    options = [
        *quick,
        "trainer.devices=2",
        "model._target_=own.Breaks",
        "+model.fails=false,true",
        "model.lr=-1,0.1,0.2",
    ]
    command = [sys.executable, "-m", "fedpurin", "-m", *options, "method=local", "hydra.sweep.dir=s"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert "run 1 of 6 refused: model: configure_optimizers of Breaks: Invalid learning rate: -1" in done.stderr
    assert "run 5 of 6 failed: rank 1: " in done.stderr
    assert "fedpurin: the ranks ended with run 5, and the sweep with them" in done.stderr
    assert (
        "fedpurin: the sweep has 5 of 6 runs; the rest, with the commands for them: fedpurin sweep status s"
        in done.stderr
    )
    states = [run.state for run in find_runs(tmp_path / "s")]
    assert states == ["refused", "done", "done", "refused", "failed", "missing"]
