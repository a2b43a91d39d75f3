"""What a cohort must not do that its clients would not do alone: decay what the loss leaves out, lose what a step replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedpurin.config import ConfigError
from tests.local.test_cohort import assert_same, run
from tests.methods.tiny import Plain

DECAYING = [
    lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
    lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    lambda parameters: torch.optim.ASGD(parameters, lr=0.1, lambd=0.1),
]


class Spare(Plain):
    """Has a layer that no loss uses, or only that of rounds from the second on."""

    def __init__(self, optimizer: Any, uses_from: int | None = None) -> None:
        super().__init__()
        self.spare, self.optimizer, self.uses_from = nn.Linear(1, 2), optimizer, uses_from
        with torch.no_grad():
            self.spare.weight.fill_(0.5)
            self.spare.bias.fill_(0.25)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if self.uses_from is not None and self.round >= self.uses_from:
            loss = loss + self.spare.weight.square().sum()
        return loss

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


@pytest.mark.parametrize("optimizer", DECAYING)
def test_weight_decay_leaves_alone_what_the_loss_does_not_use(tmp_path: Path, optimizer: Any) -> None:
    serial, cohort = (run(tmp_path / name, "fedavg", name, Spare(optimizer)) for name in ("serial", "cohort"))
    assert_same(serial, cohort)
    for client in cohort.clients.values():
        views = cohort.trainer.space.views(client.vector)
        torch.testing.assert_close(views["spare.weight"], torch.full((2, 1), 0.5))
        torch.testing.assert_close(views["spare.bias"], torch.full((2,), 0.25))


def test_a_layer_that_a_later_round_uses_is_decayed_from_then_on(tmp_path: Path) -> None:
    serial, cohort = (
        run(tmp_path / name, "fedavg", name, Spare(DECAYING[0], uses_from=1)) for name in ("serial", "cohort")
    )
    assert_same(serial, cohort)
    views = cohort.trainer.space.views(cohort.clients[0].vector)
    assert float(views["spare.weight"].max()) < 0.4
    torch.testing.assert_close(views["spare.bias"], torch.full((2,), 0.25))


class Counting(Plain):
    """Counts its steps in a buffer that it replaces, or that no `state_dict` holds."""

    def __init__(self, *, replaces: bool, rate: float = 0.0) -> None:
        super().__init__()
        self.replaces, self.drop = replaces, nn.Dropout(rate)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=replaces)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if self.replaces:
            self.seen = self.seen + 1
        else:
            self.seen.add_(1)
        x, y = batch
        return super().training_step((self.drop(x), y), batch_idx) * (1 + 0.1 * self.seen)


@pytest.mark.parametrize(
    ("rate", "why"),
    [
        (0.0, "a cohort does not learn what its clients learn alone"),
        (0.3, "a cohort does not move the buffer seen as its clients do alone"),
    ],
)
def test_a_buffer_that_a_step_replaces_is_not_lost_in_silence(tmp_path: Path, rate: float, why: str) -> None:
    with pytest.raises(
        ConfigError, match=f"trainer.executor=cohort is not possible: {why}; use trainer.executor=serial"
    ):
        run(tmp_path / "cohort", "local", "cohort", Counting(replaces=True, rate=rate), rounds=1)
    federation = run(tmp_path / "auto", "local", "auto", Counting(replaces=True, rate=rate), rounds=1)
    for client in federation.clients.values():
        assert int(client.buffers["seen"]) == client.steps > 0


@pytest.mark.parametrize("executor", ["auto", "cohort"])
def test_what_is_tried_before_the_first_round_leaves_no_trace(tmp_path: Path, executor: str) -> None:
    serial = run(tmp_path / "serial", "local", "serial", Counting(replaces=False), rounds=1)
    other = run(tmp_path / "other", "local", executor, Counting(replaces=False), rounds=1)
    assert_same(serial, other)
    for client in other.clients.values():
        assert int(client.buffers["seen"]) == client.steps > 0


def test_a_guessed_head_that_the_loss_does_not_use_is_named(tmp_path: Path) -> None:
    message = (
        r"depends on none of the parameters that the method trains in this fit \(spare.weight, spare.bias\); "
        "roles.head names another head than 'spare'"
    )
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "serial", "fedrep", "serial", Spare(DECAYING[0]), rounds=1)
