"""One process and two give the same bits with every method: each client's tensors, every byte and every figure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fedpurin.run.compose import config_groups

METHODS = config_groups()["method"]


def run(folder: Path, devices: int) -> list[dict[str, Any]]:
    """What each rank found, by method."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.methods.worker", str(devices), str(folder), *METHODS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.load(folder / f"rank{rank}") for rank in range(devices)]


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    """All methods in one pair of processes, whose start takes longer than they do."""
    (alone,), ranks = run(tmp_path / "one", 1), run(tmp_path / "two", 2)
    for method in METHODS:
        parts = [rank[method]["clients"] for rank in ranks]
        assert all(parts), "each rank has clients"
        assert parts[0] | parts[1] == alone[method]["clients"], method
        assert ranks[0][method]["records"] == alone[method]["records"], method
        assert (alone[method]["records"][-1]["bytes/up"] > 0) == (method != "local"), method
