"""One process and two give the same bits, for the methods that `tests/integration/test_runs.py` does not run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

METHODS = (
    "fedproto", "fedspa", "dispfl", "fedpm",
    "sub_fedavg", "lotteryfl", "fedselect", "apfl", "fedala", "fedamp", "per_fedavg", "pfedme", "fedbabu", "scaffold",
    "ditto", "fedcac", "fedpaq", "fedper", "fedprox", "fedrep", "fedrod", "pfedsd", "stc", "topk",
)  # fmt: skip


def run(folder: Path, *options: str) -> list[dict[str, Any]]:
    """The records of a small run of the command, without wall-clock columns."""
    command = [
        sys.executable, "-m", "fedpurin", "partition.num_clients=5", "partition.train_per_client=60",
        "trainer.clients_per_round=3", "trainer.rounds=3", "trainer.local_epochs=1", "trainer.accelerator=cpu",
        "trainer.threads=1", "callbacks.progress=null", "horizon=3", f"hydra.run.dir={folder}", *options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in r.items() if not name.endswith("seconds")} for r in records]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_give_the_bits_of_one(tmp_path: Path, method: str) -> None:
    one = run(tmp_path / "one", f"method={method}")
    two = run(tmp_path / "two", f"method={method}", "trainer.devices=2")
    assert one == two
    assert one[-1]["bytes/up"] > 0
