"""The command in a process of its own, as a user types it, and what its run recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_command(folder: Path, *options: str) -> list[dict[str, Any]]:
    """The records of `fedpurin OPTIONS` into this folder, without wall-clock columns; the run has to end well."""
    line = [sys.executable, "-m", "fedpurin", "callbacks.progress=null", f"hydra.run.dir={folder}", *options]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    records = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in r.items() if not name.endswith("seconds")} for r in records]
