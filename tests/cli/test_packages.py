"""Companion packages: hidden ones are named at start, and the wheel has all that a run needs."""

from __future__ import annotations

import json
import os
import re
import shlex
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


SMALL = ["partition.num_clients=4", "trainer.rounds=2", "trainer.local_epochs=1", "callbacks.progress=null"]
PAGES = {  # the file that each page has its reader write, of its Python blocks
    "add-a-data-set": {"my_data.py": 0},
    "add-a-partition": {"my_deal.py": 0},
    "add-a-program": {"my_program.py": slice(2)},
    "add-a-method": {"lg_fedavg.py": 0, "test_lg_fedavg.py": -1},
    "add-an-encoding": {"my_code.py": slice(2)},
}


class Installed:
    """fedpurin and its companions as the built wheel holds them; dependencies are this environment's."""

    def __init__(self, folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder / "dist", ROOT], check=True)
        (self.wheel,) = (folder / "dist").glob("*.whl")
        self.site = folder / "site"
        subprocess.run([*pip, "install", "--no-deps", "--target", self.site, self.wheel], check=True)

    def run(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`python …` in a folder; the wheel's packages come before this environment's editable install."""
        environment = {**os.environ, "PYTHONPATH": str(self.site), "PYTHONSAFEPATH": "1"}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=800)

    def fedpurin(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = self.run(folder, str(self.site / "bin" / "fedpurin"), *arguments)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"))


@pytest.mark.slow
@pytest.mark.timeout(900)  # its kernels are compiled anew
def test_the_installed_wheel_runs_in_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert {"configs/config.yaml", "callbacks/__init__.py", "lightning_modules/__init__.py"} <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"fedpurin", *COMPANIONS}
    helped = installed.fedpurin(tmp_path, "--help")
    assert "fedpurin_recommended" in helped.stdout
    assert helped.stderr == ""
    installed.fedpurin(tmp_path, *SMALL, "hydra.run.dir=run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rounds"] == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_followed_without_a_checkout(page: str, installed: Installed, tmp_path: Path) -> None:
    """Its files are written, its commands and its Python run, in a folder that holds nothing else."""
    text = (ROOT / "docs" / f"{page}.md").read_text().partition("## In a checkout")[0]
    python = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    if page == "add-a-method":  # the others are pieces of methods that are there
        python = [block for block in python if block.startswith(('"""LG-FedAvg', "import torch"))]
    for name, which in PAGES[page].items():
        (tmp_path / name).write_text("\n\n".join(python[which] if isinstance(which, slice) else [python[which]]))
    for yaml in re.findall(r"```yaml\n(.*?)```", text, flags=re.S):
        (path,) = re.findall(r"`(conf/[\w/]+\.yaml)`", text)
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(yaml)

    commands = re.findall(r"^    fedpurin (.*)$", text, flags=re.M)
    assert commands
    for number, line in enumerate(commands):
        arguments = shlex.split(line, comments=True)
        if arguments[0] == "partition":  # trains nothing
            assert "4 clients" in installed.fedpurin(tmp_path, *arguments, "partition.num_clients=4").stdout
            continue
        installed.fedpurin(tmp_path, *arguments, *SMALL, f"hydra.run.dir=run{number}")
        summary = json.loads((tmp_path / f"run{number}" / "summary.json").read_text())
        assert summary["status"] == "finished"
    if page == "add-an-encoding":
        assert 0.24 < summary["total/bytes/up"] / summary["total/bytes/down"] < 0.26
    if page == "add-a-method":
        done = installed.run(tmp_path, "-m", "pytest", "-q", "test_lg_fedavg.py")
    else:
        (tmp_path / "all_blocks.py").write_text("\n\n".join(python))
        done = installed.run(tmp_path, "all_blocks.py")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_new_parts_run_without_a_checkout(installed: Installed, tmp_path: Path) -> None:
    for kind, option in (("method", "method"), ("model", "model"), ("callback", "experiment")):
        printed = installed.fedpurin(tmp_path, "new", kind, f"my_{kind}").stdout.splitlines()
        assert printed[-1] == f"run it: fedpurin --config-dir conf {option}=my_{kind} trainer.rounds=2"
        installed.fedpurin(tmp_path, *shlex.split(printed[-1])[3:], *SMALL, f"hydra.run.dir={kind}")
        tested = installed.run(tmp_path, "-m", "pytest", "-q", f"test_my_{kind}.py")
        assert tested.returncode == 0, tested.stdout
    assert list(installed.site.rglob("*my_*")) == []
