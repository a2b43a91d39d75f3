"""A cohort learns what its clients learn alone: every method, unequal sizes, running statistics, several optimizers."""

from __future__ import annotations

import csv
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fedpurin
from fedpurin.config import ConfigError
from fedpurin.federation import Federation
from fedpurin.local.choice import cohort_size
from fedpurin.local.cohort import CohortExecutor
from fedpurin.local.executor import SerialExecutor
from fedpurin.local.fit import LocalFit
from fedpurin.methods import FedCAC, FedPM, FedPURIN
from fedpurin.run.build import build
from fedpurin.run.compose import config_groups
from tests.methods.tiny import TEST, TRAIN, Plain, Tiny, composed

METHODS = config_groups()["method"]
RARE = float(TRAIN.tensors[0].max())


def run(run_dir: Path, method: str, executor: str, module: LightningModule, **trainer: Any) -> Federation:
    config = composed(method)
    config = replace(config, trainer=replace(config.trainer, executor=executor, **trainer))
    config = replace(
        config, partition=replace(config.partition, name="dirichlet", alpha=1.0, train_per_client=None, disjoint=True)
    )
    federation = build(config, run_dir, module=module, train=TRAIN, test=TEST)
    federation.run()
    return federation


def assert_same(one: Federation, other: Federation) -> None:
    for client_id, client in one.clients.items():
        twin = other.clients[client_id]
        torch.testing.assert_close(twin.vector, client.vector, rtol=1e-4, atol=1e-5)
        for name, buffer in client.buffers.items():
            torch.testing.assert_close(twin.buffers[name], buffer, rtol=1e-4, atol=1e-5)
        for name, vector in client.extra.items():
            torch.testing.assert_close(twin.extra[name], vector, rtol=1e-4, atol=1e-5)
        assert twin.metrics == pytest.approx(client.metrics, abs=1e-6)
    for a, b in zip(one.history, other.history, strict=True):
        assert b["loss/train"] == pytest.approx(a["loss/train"], rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds of two epochs; clients of unequal size, batch norm, a cohort of three and one of one.

    Masks and collaborators are discrete, so for methods with masks a last bit may change much: their first fits count.
    """
    if composed(method).callbacks:
        monkeypatch.setattr(FedPURIN, "communicate", lambda *_: {})
        monkeypatch.setattr(FedCAC, "communicate", lambda *_: {})
    if method == "fedpm":  # draws in every step, from one stream a cohort: here both keep all weights
        monkeypatch.setattr(FedPM, "communicate", lambda *_: {})
        monkeypatch.setattr(FedPM, "merged", lambda _, client: client.vector)
        monkeypatch.setattr(torch, "bernoulli", torch.ones_like)
    serial = run(tmp_path / "serial", method, "serial", Tiny())
    cohort = run(tmp_path / "cohort", method, "cohort", Tiny(), cohort=3)
    assert cohort.executor.block == 3
    assert len({client.num_train for client in cohort.clients.values()}) > 1
    assert_same(serial, cohort)


class TwoInputs(LightningModule):
    """Dropout, layer norm and a forward pass of two inputs, under an optimizer with two groups."""

    def __init__(self, rate: float = 0.0, optimizer: Any = torch.optim.AdamW) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.left, self.right = nn.Linear(3, 4), nn.Linear(3, 4)
        self.norm, self.drop, self.head = nn.LayerNorm(4), nn.Dropout(rate), nn.Linear(4, 3)
        self.optimizer = optimizer

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.left(a) * self.right(b)).relu()))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        return {"loss": cross_entropy(self(x[:, :3], x[:, 3:]), y)}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log_dict({"accuracy": (self(x[:, :3], x[:, 3:]).argmax(1) == y).float().mean()})

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": self.head.parameters(), "lr": 0.01},
            {"params": [*self.left.parameters(), *self.right.parameters(), *self.norm.parameters()]},
        ]
        return self.optimizer(groups, lr=0.02, weight_decay=0.01)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.SGD])
def test_a_module_of_ones_own(tmp_path: Path, optimizer: Any) -> None:
    serial = run(tmp_path / "serial", "fedavg", "serial", TwoInputs(optimizer=optimizer))
    cohort = run(tmp_path / "cohort", "fedavg", "cohort", TwoInputs(optimizer=optimizer), cohort=4)
    assert_same(serial, cohort)


def test_dropout_differs_between_clients_and_repeats(tmp_path: Path) -> None:
    one, two = (run(tmp_path / name, "local", "cohort", TwoInputs(0.5), cohort=4, rounds=1) for name in ("one", "two"))
    for client_id, client in one.clients.items():
        assert torch.equal(client.vector, two.clients[client_id].vector)


@pytest.mark.parametrize("clients_per_round", [2, 3])
def test_partial_participation(tmp_path: Path, clients_per_round: int) -> None:
    serial, cohort = (
        run(tmp_path / name, "fedavg", name, Plain(), clients_per_round=clients_per_round, rounds=3)
        for name in ("serial", "cohort")
    )
    assert_same(serial, cohort)


def test_a_client_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    class Explodes(Plain):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * torch.where(batch[0].max() >= RARE, torch.nan, 1.0)  # one client has it

    serial, cohort = (run(tmp_path / name, "local", name, Explodes(), rounds=1) for name in ("serial", "cohort"))
    reports = [[row["diverged"] for row in federation_rows(f)] for f in (serial, cohort)]
    assert reports[0] == reports[1]
    assert 0 < sum(map(bool, reports[0])) < 4
    assert_same(serial, cohort)


def federation_rows(federation: Federation) -> list[dict[str, str]]:
    with (federation.run_dir / "clients.csv").open() as file:
        return list(csv.DictReader(file))


class ReadsTheEpoch(Plain):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * (1 + self.current_epoch)


class DataDependent(Plain):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss if float(loss) < 100 else loss * 0.1


class Scheduled(Plain):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


class ReadsTheIndex(Plain):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * (batch_idx == 0)


class BeginsItsFits(Plain):
    def on_fit_start(self) -> None:
        pass


class Hooked(Plain):
    def on_after_backward(self) -> None:
        pass


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (ReadsTheEpoch, "training_step reads current_epoch"),
        (DataDependent, r"item\(\)|data-dependent|vmap"),
        (Scheduled, "not one element-wise optimizer without a schedule"),
        (Hooked, "overrides on_after_backward"),
        (ReadsTheIndex, "training_step reads batch_idx"),
        (BeginsItsFits, "overrides on_fit_start"),
    ],
)
def test_what_cannot_be_batched_is_named(
    tmp_path: Path, module: type[Plain], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=why):
        run(tmp_path / "cohort", "local", "cohort", module())
    caplog.set_level(logging.INFO)
    federation = run(tmp_path / "auto", "local", "auto", module(), rounds=1, cohort=2)
    assert type(federation.executor) is SerialExecutor
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("local fits:")]
    assert len(lines) == 1
    assert re.search(why, lines[0])


class LogsTwice(Plain):
    """A value that a batch logs twice, of which the mean is 3, and one that only batches of two samples log."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log_dict({"twice": torch.tensor(2.0)})
        self.log_dict({"twice": torch.tensor(4.0)})
        if len(batch[1]) == 2:
            self.log("pairs", batch[0].mean())


class LogsAtTheEnd(Plain):
    def on_validation_epoch_end(self) -> None:
        self.log("end", 7.0)


class LogsTheIndex(Plain):
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("index", float(batch_idx))


@pytest.mark.parametrize(
    ("module", "together", "literal"),
    [(LogsTwice, True, ("test/twice", 3.0)), (LogsAtTheEnd, False, ("test/end", 7.0)), (LogsTheIndex, False, None)],
)
def test_evaluations_measure_what_each_client_measures_alone(
    tmp_path: Path, module: type[Plain], together: bool, literal: tuple[str, float] | None
) -> None:
    serial = run(tmp_path / "serial", "local", "serial", module(), rounds=1)
    cohort = run(tmp_path / "cohort", "local", "cohort", module(), rounds=1, cohort=4)
    assert isinstance(cohort.executor, CohortExecutor)
    assert cohort.executor.evaluates_together is together
    for client_id, client in serial.clients.items():
        assert cohort.clients[client_id].metrics == pytest.approx(client.metrics, abs=1e-6)
    if literal is not None:
        name, value = literal
        assert {row[f"{name}/personalized"] for row in federation_rows(cohort)} == {str(value)}


class SkipsRare(Plain):
    """No loss for the batches of the client whose samples are all at the pool's end."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return None if self.trainer_is_idle else super().training_step(batch, batch_idx)  # type: ignore[return-value]

    trainer_is_idle = False


def test_a_client_that_takes_no_step_has_no_gradient_of_another_s(tmp_path: Path) -> None:
    federation = run(tmp_path, "local", "serial", SkipsRare(), rounds=1)
    trainer, clients = federation.trainer, list(federation.clients.values())
    trainer.fit(clients[0], LocalFit(), 1)
    assert trainer.gradient.abs().sum() > 0
    trainer.module.trainer_is_idle = True
    assert trainer.fit(clients[1], LocalFit(), 1).num_steps == 0
    assert trainer.gradient.abs().sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "cohort", "cohort": 5}, "trainer.cohort=5 is more than partition.num_clients=4"),
        ({"executor": "serial", "cohort": 2}, "trainer.cohort=2 has no effect with trainer.executor=serial"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, "local", options.pop("executor"), Plain(), **options)


def test_the_size_of_a_cohort() -> None:
    config = composed("local")

    def size(clients: int, taking_part: int | None) -> int:
        partition = replace(config.partition, num_clients=clients)
        return cohort_size(
            replace(config, partition=partition, trainer=replace(config.trainer, clients_per_round=taking_part))
        )

    assert [size(4, None), size(10, None), size(20, None), size(100, None), size(1000, None), size(1000, 100)] == [
        1, 3, 5, 25, 25, 250,
    ]  # fmt: skip


def test_auto_takes_cohorts_for_small_steps_and_none_of_one(tmp_path: Path) -> None:
    cohort = run(tmp_path / "a", "local", "auto", Plain(), rounds=1, cohort=2)
    assert (type(cohort.executor), cohort.executor.block) == (CohortExecutor, 2)
    alone = run(tmp_path / "b", "local", "auto", Plain(), rounds=1)  # four clients: four cohorts of one
    assert type(alone.executor) is SerialExecutor


def test_a_recurrent_network_is_fitted_a_client_at_a_time_in_every_run_of_a_process(tmp_path: Path) -> None:
    """torch says only once that it loops over what it cannot batch; the choice may not depend on that."""
    tokens = torch.utils.data.TensorDataset(torch.arange(120).view(40, 3) % 5, torch.arange(40) % 2)
    options = ["method=local", "model=lstm", "trainer.rounds=1", "partition.num_clients=4", "partition=iid"]
    for name in ("one", "two"):
        result = fedpurin.simulate(
            [*options, "callbacks.progress=null"], train=tokens, test=tokens, run_dir=tmp_path / name
        )
        assert type(result.federation.executor) is SerialExecutor
    asked = fedpurin.simulate(
        [*options, "callbacks.progress=null", "trainer.executor=cohort"],
        train=tokens,
        test=tokens,
        run_dir=tmp_path / "asked",
    )
    assert isinstance(asked.federation.executor, CohortExecutor)
