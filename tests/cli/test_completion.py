"""The tab key: every command and flag is known, and bash completes by the script what a user begins to write."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import fedpurin
from fedpurin.__main__ import COMMAND_MODULES
from fedpurin.cli.completion import FLAGS, script
from fedpurin.cli.help import COMMANDS

SOURCES = Path(fedpurin.__file__).parent / "cli"


def test_every_command_and_flag_is_there() -> None:
    assert set(FLAGS) == set(COMMANDS) == set(COMMAND_MODULES)
    for command in COMMANDS:
        source = (SOURCES / f"{command}.py").read_text()
        defined = set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', source)) | set(re.findall(r'"(--out)" in', source))
        assert {word for word in FLAGS[command].split() if word.startswith("--")} == defined, command


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(tmp_path: Path) -> None:
    (tmp_path / "made.sh").write_text(script("bash"))
    (tmp_path / "runs").mkdir()
    tries = {
        "fedpurin swe": "sweep",
        "fedpurin sweep st": "status",
        "fedpurin method=fedpurin_r": "fedpurin_recommended",  # bash has `method=` already
        "fedpurin seed=1 partition.al": "partition.alpha=",
        "fedpurin report ru": "runs",
        "fedpurin report --font-": "--font-size",
        "fedpurin export runs --cl": "--client",
        "fedpurin resume runs trainer.rou": "trainer.rounds=",
    }
    ask = ["source made.sh"]
    for line in tries:
        words = " ".join(f"'{word}'" for word in line.split())
        count = len(line.split())
        ask.append(
            f"COMP_LINE='{line}'; COMP_POINT={len(line)}; COMP_WORDS=({words}); COMP_CWORD={count - 1}; COMPREPLY=(); "
            '_fedpurin; echo "${COMPREPLY[*]}"'
        )
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(ask)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == list(tries.values())
