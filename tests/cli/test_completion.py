"""The tab key: every command and flag is known, and bash and zsh complete by the script what a user begins to write."""

from __future__ import annotations

import os
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


DRIVE = """
zmodload zsh/zpty
zpty -b terminal "zsh -i" || exit 3
hold() {  # until the file has so many lines; a loaded machine may take its time
    local -i tries
    for ((tries = 0; tries < 1200; tries++)); do
        [[ -e $1 ]] && (( $(wc -l < $1) >= $2 )) && return
        zpty -r -t terminal said && print -rn -- "$said" >> said.txt
        sleep 0.05
    done
    exit 4
}
hold ready.txt 1
typeset -i count=0
while read -r line; do
    zpty -w -n terminal "$line"$'\\t\\x14'
    hold completed.txt $((++count))
done < tries.txt
zpty -d terminal
"""
ZSHRC = """
autoload -U compinit && compinit -u -D
source ./made.sh
bindkey "^I" expand-or-complete
show() { print -r -- "$BUFFER|" >> completed.txt; BUFFER= }
zle -N show && bindkey "^T" show
zle-line-init() { print ready > ready.txt }
zle -N zle-line-init
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_completes(tmp_path: Path) -> None:
    (tmp_path / "made.sh").write_text(script("zsh"))
    (tmp_path / "runs").mkdir()
    tries = {
        "fedpurin swe": "fedpurin sweep |",
        "fedpurin sweep st": "fedpurin sweep status |",
        "fedpurin method=fedpurin_r": "fedpurin method=fedpurin_recommended |",
        "fedpurin seed=1 partition.al": "fedpurin seed=1 partition.alpha=|",
        "fedpurin report ru": "fedpurin report runs/|",
        "fedpurin seed=1 data.root=ru": "fedpurin seed=1 data.root=runs/|",
        "fedpurin export runs --cl": "fedpurin export runs --client |",
        "fedpurin resume runs trainer.rou": "fedpurin resume runs trainer.rounds=|",
    }
    (tmp_path / "tries.txt").write_text("".join(f"{line}\n" for line in tries))
    (tmp_path / ".zshrc").write_text(ZSHRC)
    (tmp_path / "drive.zsh").write_text(DRIVE)
    environment = {**os.environ, "ZDOTDIR": str(tmp_path), "TERM": "dumb"}
    subprocess.run(["zsh", "-f", "drive.zsh"], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert (tmp_path / "completed.txt").read_text().splitlines() == list(tries.values())
