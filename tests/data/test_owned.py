"""Whose a sample is, said beside the data sets: every name is a client."""

from __future__ import annotations

from pathlib import Path

import pytest

import fedpurin
from fedpurin.config import ConfigError
from tests.methods.tiny import TEST, TRAIN, Plain

OPTIONS = [
    "method=local",
    "trainer.rounds=1",
    "trainer.local_epochs=1",
    "callbacks.progress=null",
    "checkpoint.every=0",
]


def simulate(folder: Path, train: list[str], test: list[str], *overrides: str) -> fedpurin.RunResult:
    return fedpurin.simulate(
        [*OPTIONS, *overrides], module=Plain(), train=TRAIN, test=TEST, clients=(train, test), run_dir=folder
    )


def test_clients_by_name(tmp_path: Path) -> None:
    train, test = [f"w{i % 3}" for i in range(90)], [f"w{i % 3}" for i in range(40)]
    result = simulate(tmp_path, train, test)
    assert result.federation.config.partition.num_clients == 3
    assert result.federation.clients[1].train_indices.tolist() == list(range(1, 90, 3))
    with pytest.raises(ConfigError, match=r"clients: \[40\] names for 90 train samples"):
        simulate(tmp_path / "b", test, test)
    with pytest.raises(ConfigError, match="given clients, which are the partition; leave out partition=iid"):
        simulate(tmp_path / "c", train, test, "partition=iid")
