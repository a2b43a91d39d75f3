"""The link model in a run: simulated seconds from the bytes in the run folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import fedpurin

RUN = [
    "partition.num_clients=3", "trainer.rounds=2", "trainer.local_epochs=1", "trainer.accelerator=cpu",
    "trainer.threads=1", "checkpoint.every=0", "network=fixed", "network.up_mbps=1.0", "network.down_mbps=2.0",
    "network.latency_ms=50.0",
]  # fmt: skip


def test_dense_exchange_takes_two_trips(tmp_path: Path) -> None:
    result = fedpurin.simulate([*RUN, "method=fedavg", "network.target_accuracy=0.01"], run_dir=tmp_path)
    row = next(csv.DictReader((tmp_path / "clients.csv").open()))
    expected = 0.05 + 8 * int(row["bytes/up"]) / 1e6 + 0.05 + 8 * int(row["bytes/down"]) / 2e6
    assert float(row["network/seconds"]) == pytest.approx(expected)
    assert result.history[0]["network/seconds"] == pytest.approx(expected)
    assert result.summary["total/network/seconds"] == pytest.approx(2 * expected)
    assert result.summary["network/seconds_to_target"] == pytest.approx(expected)


def test_on_demand_pays_for_its_extra_round_trip(tmp_path: Path) -> None:
    fedpurin.simulate([*RUN, "method=fedpurin_recommended"], run_dir=tmp_path)
    record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    rows = [row for row in csv.DictReader((tmp_path / "clients.csv").open()) if row["round"] == "0"]
    trips = [("up/mask", 1e6), ("down/request", 2e6), ("up/values", 1e6), ("down/sums", 2e6)]
    seconds = sum(max(0.05 + 8 * int(row[f"bytes/{phase}"]) / rate for row in rows) for phase, rate in trips)
    assert record["network/seconds"] == pytest.approx(seconds)


def test_no_link_model_by_default(tmp_path: Path) -> None:
    fedpurin.simulate(RUN[:6], run_dir=tmp_path)
    assert "network/seconds" not in json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
