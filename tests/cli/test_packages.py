"""Companion packages: hidden ones are named at start, and the wheel has all that a run needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib import util
from pathlib import Path

import pytest

from fedpurin.cli.packages import COMPANIONS, hidden_companions

ROOT = Path(__file__).parent.parent.parent


def test_the_companions_of_this_checkout_are_ours() -> None:
    assert hidden_companions() is None


def test_a_package_that_hides_ours_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").touch()
    found = util.spec_from_file_location("configs", tmp_path / "configs" / "__init__.py", submodule_search_locations=[])
    assert found is not None
    found.submodule_search_locations = [str(tmp_path / "configs")]
    real = util.find_spec
    monkeypatch.setattr("fedpurin.cli.packages.find_spec", lambda name: found if name == "configs" else real(name))
    line = hidden_companions()
    assert line is not None
    assert line.startswith(f"not fedpurin's own: configs ({tmp_path / 'configs'}); they hide those in {ROOT}")
    assert "\n" not in line
    monkeypatch.setattr("fedpurin.cli.packages.find_spec", lambda name: None if name == "callbacks" else real(name))
    assert "callbacks (not found)" in str(hidden_companions())


@pytest.mark.slow
def test_the_installed_wheel_runs_in_an_empty_folder(tmp_path: Path) -> None:
    """Dependencies come from this environment; fedpurin and its companions from the wheel alone."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path / "dist", ROOT], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"configs/config.yaml", "callbacks/__init__.py", "lightning_modules/__init__.py"} <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"fedpurin", *COMPANIONS}

    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    # The target comes before this environment's editable install.
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}

    def fedpurin(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(site / "bin" / "fedpurin"), *arguments]
        return subprocess.run(command, cwd=empty, env=environment, text=True, capture_output=True, timeout=250)

    helped = fedpurin("--help")
    assert helped.returncode == 0, helped.stderr
    assert "fedpurin_recommended" in helped.stdout
    assert helped.stderr == ""
    options = ("partition.num_clients=2", "trainer.rounds=2", "trainer.local_epochs=1", "hydra.run.dir=run")
    ran = fedpurin(*options)
    assert ran.returncode == 0, ran.stderr
    summary = json.loads((empty / "run" / "summary.json").read_text())
    assert summary["rounds"] == 2
