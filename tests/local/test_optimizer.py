"""Schedules take their turns as Lightning counts them, and what is misspelt is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from fedpurin.config import ConfigError
from fedpurin.federation import Federation
from fedpurin.local.fit import LocalFit
from fedpurin.local.optimizer import Schedule, configured
from fedpurin.run.build import build
from tests.methods.tiny import TEST, TRAIN, Plain, composed


class Scheduled(Plain):
    """Halves its rate at each turn of a schedule; `seen` keeps the rate of every step."""

    def __init__(self, entry: dict[str, Any], scheduler: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.entry, self.scheduler = entry, scheduler or (lambda optimizer: StepLR(optimizer, 1, 0.5))
        self.seen: list[float] = []

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.seen.append(round(optimizer.param_groups[0]["lr"], 4))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), **self.entry}}


def plateau(optimizer: Any) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(
        optimizer, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs"
    )  # every value after the first is worse


def built(folder: Path, module: Plain) -> Federation:
    return build(composed("local"), folder, module=module, train=TRAIN, test=TEST)


def rates(folder: Path, module: Scheduled, epochs: int) -> list[float]:
    """The rate in the first step of each epoch of one fit; with interval=step, of every step of one epoch."""
    federation = built(folder, module)
    client, live = federation.clients[0], federation.trainer.module
    live.seen.clear()
    federation.trainer.fit(client, LocalFit(epochs=epochs), 0)
    return live.seen[:: federation.trainer.num_batches(client)] if epochs > 1 else live.seen


@pytest.mark.parametrize(
    ("entry", "epochs", "expected"),
    [
        ({}, 4, [0.8, 0.4, 0.2, 0.1]),
        ({"frequency": 2}, 5, [0.8, 0.8, 0.4, 0.4, 0.2]),
        ({"interval": "step", "frequency": 2}, 1, [0.8, 0.8, 0.4]),
    ],
)
def test_turns(tmp_path: Path, entry: dict[str, Any], epochs: int, expected: list[float]) -> None:
    assert rates(tmp_path, Scheduled(entry), epochs)[: len(expected)] == expected


def test_a_plateau_of_the_training_loss(tmp_path: Path) -> None:
    assert rates(tmp_path, Scheduled({"monitor": "loss"}, plateau), 4) == [0.8, 0.8, 0.4, 0.2]


def test_a_plateau_of_what_training_step_logs(tmp_path: Path) -> None:
    class Logs(Scheduled):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("own", 1.0 if batch_idx else 3.0)
            return super().training_step(batch, batch_idx)

        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            self.told = [*getattr(self, "told", []), metric]

    federation = built(tmp_path, Logs({"monitor": "own"}, plateau))
    client = federation.clients[0]
    federation.trainer.fit(client, LocalFit(epochs=2), 0)
    expected = 1.0 + 2.0 / federation.trainer.num_batches(client)
    assert federation.trainer.module.told == pytest.approx([expected, expected])


def test_a_value_that_is_not_logged_is_named(tmp_path: Path) -> None:
    federation = built(tmp_path, Scheduled({"monitor": "val_loss"}, plateau))
    with pytest.raises(ConfigError, match=r"monitors 'val_loss', and training logged loss; .*not validated while"):
        federation.trainer.fit(federation.clients[0], LocalFit(epochs=1), 0)
    lenient = built(tmp_path / "b", Scheduled({"monitor": "val_loss", "strict": False}, plateau))
    lenient.trainer.fit(lenient.clients[0], LocalFit(epochs=1), 0)


@pytest.mark.parametrize(
    ("entry", "scheduler", "message"),
    [
        ({"interval": "batch"}, None, "interval='batch'"),
        ({"frequency": 0}, None, "frequency=0"),
        ({"intervall": "step"}, None, "'intervall'; possible are scheduler, interval.*did you mean interval?"),
        ({}, plateau, "reduces on a plateau and has no 'monitor'"),
    ],
)
def test_what_is_refused_before_the_start(tmp_path: Path, entry: dict[str, Any], scheduler: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(tmp_path, Scheduled(entry, scheduler))


def test_the_documented_forms() -> None:
    class Returns(Plain):
        def configure_optimizers(self) -> Any:
            return self.form(torch.optim.SGD(self.parameters(), lr=0.1))

    module = Returns()
    forms: list[tuple[Callable[[Any], Any], Any]] = [
        (lambda o: o, None),
        (lambda o: [o], None),
        (lambda o: {"optimizer": o}, None),
        (lambda o: ([o], [StepLR(o, 1)]), Schedule(None)),
        (lambda o: [[o], [{"scheduler": StepLR(o, 1), "interval": "step"}]], Schedule(None, interval="step")),
        (
            lambda o: {"optimizer": o, "lr_scheduler": plateau(o), "monitor": "loss"},
            Schedule(None, monitor="loss", reduce_on_plateau=True),
        ),
    ]
    for form, expected in forms:
        module.form = form
        schedules = configured(module).schedules
        assert len(schedules) == (expected is not None)
        for schedule in schedules:
            assert (schedule.interval, schedule.monitor, schedule.reduce_on_plateau) == (
                expected.interval, expected.monitor, expected.reduce_on_plateau,
            )  # fmt: skip
    module.form = lambda o: [o, o]
    with pytest.raises(ConfigError, match="2 optimizers, not 1"):
        configured(module)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda o: [{"lr_scheduler": StepLR(o, 1)}], "returned no 'optimizer'"),
        (lambda o: {"optimiser": o}, "'optimiser'; possible are optimizer, .*did you mean optimizer?"),
        (lambda o: "sgd", "returned str; a client needs one torch optimizer"),
        (lambda o: torch.optim.LBFGS(o.param_groups[0]["params"]), "LBFGS of Returns evaluates the loss several times"),
        (lambda o: ([o], [{"interval": "step"}]), "has no 'scheduler', only 'interval'"),
    ],
)
def test_forms_that_are_refused(form: Callable[[Any], Any], message: str) -> None:
    class Returns(Plain):
        def configure_optimizers(self) -> Any:
            return form(torch.optim.SGD(self.parameters(), lr=0.1))

    with pytest.raises(ConfigError, match=message):
        configured(Returns())
