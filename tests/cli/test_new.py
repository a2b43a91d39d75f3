"""`fedpurin new` writes parts that run, pass their own test, and replace nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedpurin.cli.new import PARTS, main, write_part
from fedpurin.config import ConfigError

ROOT = Path(__file__).parent.parent.parent


def test_three_files_are_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "fedpurin" / "methods").mkdir(parents=True)
    assert main(["method", "my_rule", "--into", str(tmp_path)]) == 0
    files = ["fedpurin/methods/my_rule.py", "configs/method/my_rule.yaml", "tests/methods/test_my_rule.py"]
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*") if p.stat().st_size) == sorted(files)
    assert "class MyRule(FedAvg):" in (tmp_path / files[0]).read_text()
    assert capsys.readouterr().out.splitlines()[-1] == "run it: fedpurin method=my_rule trainer.rounds=2"


@pytest.mark.parametrize("name", ["My-Rule", "2nd", "class", ""])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lower case, say my_method"):
        write_part("method", name, tmp_path)


def test_files_that_exist_stay_as_they_are(tmp_path: Path) -> None:
    taken = tmp_path / "conf" / "model" / "net.yaml"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    with pytest.raises(ConfigError, match=r"net\.yaml exists; choose another NAME"):
        write_part("model", "net", tmp_path)
    assert taken.read_text() == "mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [taken]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", PARTS)
def test_a_new_part_outside_a_checkout_runs_and_passes_its_test(kind: str, tmp_path: Path) -> None:
    """As after `pip install`: three files in the working folder, and nothing anywhere else."""
    written = write_part(kind, "fresh", tmp_path)
    choice = {"method": "method", "model": "model", "callback": "experiment"}[kind]
    assert [str(path.relative_to(tmp_path)) for path in written] == [
        "fresh.py", f"conf/{choice}/fresh.yaml", "test_fresh.py",
    ]  # fmt: skip

    def run(*arguments: str) -> None:
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr

    run("pytest", "-q", "test_fresh.py")
    small = ["partition.num_clients=2", "trainer.rounds=2", "trainer.local_epochs=1"]
    run("fedpurin", "--config-dir", "conf", f"{choice}=fresh", *small)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a copy compiles its kernels anew
@pytest.mark.parametrize("kind", PARTS)
def test_a_new_part_runs_and_passes_its_test_and_the_linter(kind: str, tmp_path: Path) -> None:
    for folder in ("fedpurin", "callbacks", "configs", "lightning_modules", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    written = write_part(kind, "fresh", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*arguments: str) -> None:
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr

    run("ruff", "check", *map(str, written[::2]))
    run("ruff", "format", "--check", *map(str, written[::2]))
    run("pytest", "-q", str(written[2]))
    choice = {"method": "method", "model": "model", "callback": "experiment"}[kind]
    run("fedpurin", f"{choice}=fresh", "partition.num_clients=2", "trainer.rounds=2", "trainer.local_epochs=1")
