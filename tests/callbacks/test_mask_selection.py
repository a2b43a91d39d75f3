"""The mask callback: the masks of a run, solved in line or in a thread."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

import fedpurin
from fedpurin.exchange.wire import costs
from fedpurin.space import unpack_mask

RUN = [
    "partition.num_clients=3", "trainer.rounds=2", "trainer.local_epochs=1", "trainer.accelerator=cpu",
    "trainer.threads=1", "checkpoint.every=0",
]  # fmt: skip


def run(folder: Path, *overrides: str) -> fedpurin.RunResult:
    return fedpurin.simulate([*RUN, *overrides], run_dir=folder)


def test_layerwise_masks_keep_their_budget_and_its_certificate_is_recorded(tmp_path: Path) -> None:
    result = run(tmp_path, "program.tau=0.25", "scores.cutoff=0.0")
    for client in result.federation.clients.values():
        assert client.mask is not None
        bits = unpack_mask(client.mask)
        for segment in result.federation.trainer.space.shared:
            assert int(bits[segment.slice].sum()) <= segment.size // 4
    for row in csv.DictReader((tmp_path / "clients.csv").open()):
        assert row["program/status"] == "optimal"
        assert float(row["program/gap"]) == 0.0
        assert float(row["program/objective"]) == float(row["program/bound"]) > 0
        assert 0.2 < float(row["mask/density"]) <= 0.25


def test_a_solve_beside_training_gives_the_same_run(tmp_path: Path) -> None:
    inline, beside = (run(tmp_path / name, f"program.overlap={name}") for name in ("false", "true"))
    for client_id, client in inline.federation.clients.items():
        other = beside.federation.clients[client_id]
        assert client.mask is not None
        assert other.mask is not None
        assert torch.equal(client.mask, other.mask)
        assert torch.equal(client.vector, other.vector)


def test_a_budget_bounds_what_the_encoder_wrote(tmp_path: Path) -> None:
    result = run(tmp_path, "program=budget", "program.budget=0.08")
    dense = costs.dense_bytes(result.federation.trainer.space.shared, value_bytes=4)
    sent = [int(row["bytes/up"]) for row in csv.DictReader((tmp_path / "clients.csv").open())]
    assert max(sent) <= 0.08 * dense
    assert result.summary["program/gap"] <= 1e-4


def test_direct_exchange_keeps_the_budget_too(tmp_path: Path) -> None:
    result = run(tmp_path, "program=budget", "program.budget=20000", "exchange=direct")
    sent = [int(row["bytes/up"]) for row in csv.DictReader((tmp_path / "clients.csv").open())]
    assert 19_000 < max(sent) <= 20_000
    assert result.summary["status"] == "finished"


def test_a_gradient_beyond_float16_is_a_divergence(tmp_path: Path) -> None:
    result = run(
        tmp_path, "method=fedpurin", "model=custom", "model._target_=tests.modules.Steep", "trainer.rounds=1"
    )  # fmt: skip
    assert result.history[0]["clients/diverged"] == 3
    reasons = {row["diverged"] for row in csv.DictReader((tmp_path / "clients.csv").open())}
    assert all(reason.startswith("scores are not finite (largest gradient: ") for reason in reasons)


def test_it_needs_to_be_there() -> None:
    with pytest.raises(fedpurin.ConfigError, match=r"keep callbacks.mask_selection"):
        fedpurin.simulate([*RUN, "~callbacks.mask_selection"])
