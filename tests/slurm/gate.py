"""Runs that wait for the test at the start of a round, so that they are interrupted there and not by the clock.

`RUN` is the small run of these tests. A `Gate` belongs to it as a callback: every rank leaves a mark when it has come
to the round, and goes on once the test has opened the gate.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning

ROUNDS, GATE_ROUND = 6, 2
RUN = [
    "partition.num_clients=5", "partition.train_per_client=60", "trainer.local_epochs=2", "trainer.batch_size=8",
    "trainer.threads=1", "trainer.accelerator=cpu", "checkpoint.every=2", "method.beta=4", f"trainer.rounds={ROUNDS}",
]  # fmt: skip


class Gate(lightning.Callback):
    """Holds every rank at the start of one round until the file `path` is there."""

    def __init__(self, path: str, gate_round: int) -> None:
        self.path, self.gate_round = Path(path), gate_round

    def on_round_start(self, federation: Any, this_round: Any) -> None:
        if this_round.number != self.gate_round or self.path.exists():
            return
        mark(self.path, federation.run_dir, federation.processes.rank).touch()
        while not self.path.exists():
            time.sleep(0.05)


def gated(path: Path) -> list[str]:
    """The overrides that put a gate before the third round."""
    return [
        "+callbacks.gate._target_=tests.slurm.gate.Gate", f"+callbacks.gate.path={path}",
        f"+callbacks.gate.gate_round={GATE_ROUND}",
    ]  # fmt: skip


def mark(path: Path, run_dir: Path, rank: int) -> Path:
    return path.with_name(f"{path.name}.{run_dir.name}.{rank}")


def wait_at_gate(path: Path, run_dir: Path, ranks: int, why: Callable[[], str]) -> None:
    """Wait until every rank of the run stands before the gate."""
    wait_until(lambda: all(mark(path, run_dir, rank).exists() for rank in range(ranks)), why)


def wait_for_signal(run_dir: Path, why: Callable[[], str]) -> None:
    """Wait until the run has noticed a signal, which it heeds when the round is over."""
    log = run_dir / "fedpurin.log"
    wait_until(lambda: log.exists() and "finishing the round, at most" in log.read_text(), why)


def wait_until(true: Callable[[], bool], why: Callable[[], str], timeout: float = 600) -> None:
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, why()
        time.sleep(0.1)


def free_ports(number: int) -> list[int]:
    """Ports that are free now, all different: each is held until the last is known."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
