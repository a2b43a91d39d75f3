"""The mask callback: the masks of a run, solved in line or in a thread."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

import fedpurin
from callbacks.mask_selection import MaskSelection
from fedpurin.exchange.wire import costs
from fedpurin.local.hooks import accepts_stacks
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


def test_a_budget_of_8_bit_values_bounds_what_the_encoder_wrote(tmp_path: Path) -> None:
    """The cap is in bytes, so values of a byte buy a mask of more parameters, and the certificate stands."""
    runs, densities = {}, {}
    for dtype in ("float32", "float8_e4m3fn"):
        options = ("program=budget", "program.budget=20000", "exchange=direct", f"exchange.value_dtype={dtype}")
        runs[dtype] = run(tmp_path / dtype, *options)
        rows = list(csv.DictReader((tmp_path / dtype / "clients.csv").open()))
        assert 19_000 < max(int(row["bytes/up"]) for row in rows) <= 20_000
        assert all(float(row["program/gap"]) <= 1e-4 for row in rows)
        densities[dtype] = min(float(row["mask/density"]) for row in rows)
    assert densities["float8_e4m3fn"] > 2 * densities["float32"]


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


class Witness(lightning.Callback):
    """Hears of every fit by itself, so that nobody is told of a stack."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        assert torch.equal(trainer.vector[:5], next(iter(pl_module.parameters())).flatten()[:5])
        self.seen.append(trainer.client.id)


@pytest.mark.parametrize("order", ["second", "update", "random"])
def test_a_cohort_scored_as_a_stack_and_one_by_one_gives_the_same_masks(tmp_path: Path, order: str) -> None:
    options = ["trainer.cohort=3", "trainer.executor=cohort", f"scores.order={order}", "trainer.rounds=1"]
    alone = run(tmp_path / "alone", *options, "+callbacks.witness._target_=tests.callbacks.test_mask_selection.Witness")
    together = run(tmp_path / "together", *options)
    (listener,) = [c for c in alone.federation.trainer.fabric._callbacks if isinstance(c, Witness)]
    assert sorted(listener.seen) == [0, 1, 2]
    for client_id, client in together.federation.clients.items():
        other = alone.federation.clients[client_id]
        assert client.mask is not None
        assert other.mask is not None
        assert torch.equal(client.mask, other.mask)
        assert torch.equal(client.vector, other.vector)


def test_a_subclass_with_an_on_fit_end_of_its_own_is_told_of_each_fit() -> None:
    class Extended(MaskSelection):
        def on_fit_end(self, trainer: Any, pl_module: Any) -> None: ...

    assert accepts_stacks(MaskSelection())
    assert not accepts_stacks(Extended())
    assert not accepts_stacks(Witness())


def test_an_infinite_score_in_a_stack_concerns_its_own_client_alone(tmp_path: Path) -> None:
    result = run(tmp_path, "trainer.rounds=1")
    trainer = result.federation.trainer
    clients = list(result.federation.clients.values())
    (callback,) = [c for c in trainer.fabric._callbacks if isinstance(c, MaskSelection)]
    callback.scores = replace(callback.scores, source="gradient", order="first")  # type: ignore[type-var]
    gradients = torch.ones(3, trainer.space.shared.length)
    gradients[1, 7] = 1e6  # beyond float16
    vectors = torch.stack([client.vector for client in clients])
    told = callback.fits_ended(trainer, clients, vectors, gradients)
    assert [told[0], told[2]] == [None, None]
    assert told[1] == "scores are not finite (largest gradient: 1e+06)"
    assert [client.id for client, _ in callback._waiting] == [0, 2]
