"""Studies of seconds, memory and certificates: a script of the checkout measures them and writes a table.

Owns: running the script once for a version of the code, and its part of docs/results.md. Does not own: what is measured
(benchmarks/). Its numbers belong to the machine that the script names; nothing of them is confirmed or refuted elsewhere.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from fedpurin.run.reader import read_summary
from fedpurin.study.plan import Measured
from fedpurin.study.store import MEASURED, State, Store


def folder_of(study: Measured, store: Store) -> Path:
    return store.root / f"{store.code}-{MEASURED}" / study.name


def state_of(study: Measured, store: Store) -> State:
    """Done once the script has ended well with this version of the code."""
    status = read_summary(folder_of(study, store)).get("status")
    return "done" if status == "finished" else "failed" if status == "failed" else "missing"


def command_of(study: Measured, out: Path, *, quick: bool) -> list[str]:
    return [*study.measure, *(study.quick if quick else []), "--out", str(out)]


def measure(study: Measured, store: Store, root: Path, *, quick: bool) -> str:
    """Run the script in the checkout at `root`; returns the error's last line, empty when its table is there."""
    folder = folder_of(study, store)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *command_of(study, folder.absolute(), quick=quick)]
    log = folder / "output.log"
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(command, cwd=root, stdout=file, stderr=subprocess.STDOUT).returncode
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    error = ""
    if code != 0:
        error = f"{' '.join(study.measure)} ended with code {code}: {said[-1] if said else 'without a word'}"
    elif not (folder / study.table).exists():
        error = f"{' '.join(study.measure)} wrote no {study.table}"
    summary = {"status": "failed", "error": error} if error else {"status": "finished"}
    (folder / "summary.json").write_text(json.dumps(summary) + "\n")
    return error


def section(study: Measured, store: Store, image: str | None) -> str:
    """The study's part of the page, without marks."""
    text = (folder_of(study, store) / study.table).read_text(encoding="utf-8")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("# ")).strip()
    parts = [
        f"## {study.title}",
        " ".join(study.question.split()),
        f"Run with `fedpurin reproduce {study.name}`, which is `python {' '.join(study.measure)}`. "
        f"Code version {store.code}. One machine, one measurement a row: no seeds and no intervals.",
        body,
    ]
    if image is not None:
        parts.append(f"![{study.title}]({image})")
    if study.unknown:
        parts.append(f"**What remains unknown.** {' '.join(study.unknown.split())}")
    return "\n\n".join(parts)


def keep_image(study: Measured, store: Store, images: Path) -> str | None:
    """Copy the script's picture to the page's; its name there, None without one."""
    if study.image is None:
        return None
    images.mkdir(parents=True, exist_ok=True)
    name = f"study_{study.name}{Path(study.image).suffix}"
    shutil.copy(folder_of(study, store) / study.image, images / name)
    return f"images/{name}"
