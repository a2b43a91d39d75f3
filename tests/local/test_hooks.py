"""Lightning's hooks around a client's steps: called in its order, or refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.core.hooks import CheckpointHooks, DataHooks, ModelHooks

from fedpurin.config import ConfigError
from fedpurin.local.fit import LocalFit
from fedpurin.local.hooks import BATCH_HOOKS, CALLED, NOT_CALLED, overridden
from fedpurin.run.build import build
from fedpurin.run.listeners import IGNORED
from tests.methods.tiny import TEST, TRAIN, Plain, composed


class Hooked(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.called.append("training_step")
        return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        self.called.append("configure_gradient_clipping")
        for parameter in self.parameters():
            parameter.grad.zero_()


def _recorder(hook: str) -> Any:
    return lambda self, *_: self.called.append(hook)


for _hook in ("on_fit_start", "on_train_start", "on_train_end", "on_fit_end", *BATCH_HOOKS):
    if _hook != "configure_gradient_clipping":
        setattr(Hooked, _hook, _recorder(_hook))


def test_hooks_run_in_order_and_none_skips_the_step(tmp_path: Path) -> None:
    federation = build(composed("local"), tmp_path, module=Hooked(), train=TRAIN, test=TEST)
    client, module = federation.clients[0], federation.trainer.module
    before, batches = client.vector.clone(), federation.trainer.num_batches(client)
    module.called.clear()
    result = federation.trainer.fit(client, LocalFit(epochs=1), 0)
    assert torch.equal(client.vector, before), "the hook set every gradient to zero"
    assert result.num_steps == batches - 1
    step = [BATCH_HOOKS[0], "training_step", *BATCH_HOOKS[1:]]
    skipped = [BATCH_HOOKS[0], "training_step", BATCH_HOOKS[-1]]
    expected = ["on_fit_start", "on_train_start", *step, *skipped, *step * (batches - 2), "on_train_end", "on_fit_end"]
    assert "\n".join(module.called) == "\n".join(expected)


def test_a_hook_that_is_not_called_is_refused(tmp_path: Path) -> None:
    class Warm(Plain):
        def optimizer_step(self, *arguments: Any) -> None: ...

    with pytest.raises(ConfigError, match="Warm overrides optimizer_step"):
        build(composed("local"), tmp_path, module=Warm(), train=TRAIN, test=TEST)


def test_every_hook_that_lightning_documents_for_fitting_is_called_refused_or_named() -> None:
    documented = {name for kind in (ModelHooks, DataHooks, CheckpointHooks) for name in vars(kind) if name[0] != "_"}
    known = {"setup", "configure_model", *CALLED, *NOT_CALLED, *IGNORED}
    assert {name for name in documented - known if "predict" not in name} == set()


class StopsEarly(Plain):
    """Lightning's word for "no more of this epoch" is −1."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 1 else None


class LosesItsLoss(Plain):
    """Returns a loss while the run is built, and none once it trains."""

    is_lost = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return "loss" if self.is_lost else super().training_step(batch, batch_idx)


def test_a_hook_may_end_an_epoch(tmp_path: Path) -> None:
    federation = build(composed("local"), tmp_path, module=StopsEarly(), train=TRAIN, test=TEST)
    client = federation.clients[0]
    assert federation.trainer.num_batches(client) > 1
    assert federation.trainer.fit(client, LocalFit(epochs=3), 0).num_steps == 3


def test_a_training_step_that_returns_no_loss_is_named(tmp_path: Path) -> None:
    config = composed("local")
    config = replace(config, trainer=replace(config.trainer, executor="serial"))
    federation = build(config, tmp_path, module=LosesItsLoss(), train=TRAIN, test=TEST)
    federation.trainer.module.is_lost = True
    with pytest.raises(ConfigError, match="training_step returned str; return the loss or"):
        federation.trainer.fit(federation.clients[0], LocalFit(epochs=1), 0)


def test_a_hook_set_on_the_object_is_its_own() -> None:
    module = Plain()
    assert not overridden(module, "on_fit_start")
    module.on_fit_start = lambda: None  # type: ignore[method-assign]
    assert overridden(module, "on_fit_start")


class Clips(Plain):
    """As Lightning's manual has it: what the Trainer was given is handed on, and here nothing was."""

    value: float | None = None

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=self.value, gradient_clip_algorithm=gradient_clip_algorithm)


def lengths(folder: Path, module: Plain) -> list[float]:
    """How far each client's parameters move in one fit."""
    federation = build(composed("local"), folder, module=module, train=TRAIN, test=TEST)
    moved = []
    for client in federation.clients.values():
        before = client.vector.clone()
        federation.trainer.fit(client, LocalFit(epochs=1), 0)
        moved.append(float((client.vector - before).norm()))
    return moved


def test_clipping_by_lightning_s_helper(tmp_path: Path) -> None:
    clipped = Clips()
    clipped.value = 1e-6
    assert lengths(tmp_path / "none", Clips()) == pytest.approx(lengths(tmp_path / "plain", Plain()), rel=1e-4)
    assert max(lengths(tmp_path / "tiny", clipped)) < 1e-5


class FreezesLater(Plain):
    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.net[0].requires_grad_(False)


def test_what_one_client_freezes_on_its_way_trains_again_in_the_next(tmp_path: Path) -> None:
    federation = build(composed("local"), tmp_path, module=FreezesLater(), train=TRAIN, test=TEST)
    layer = federation.trainer.space.layout.segments[0].slice
    for client in federation.clients.values():
        before = client.vector.clone()
        federation.trainer.fit(client, LocalFit(epochs=2), 0)
        assert not torch.equal(client.vector[layer], before[layer])


class Inner(Plain):
    def measure(self, batch: Any) -> None:
        self.log("accuracy", 0.25 + 0 * self.current_epoch)
        assert self.current_epoch == self.global_step == 0 or self.logger is None


class Outer(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.seen: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.logger is not None or self.inner.loggers:
            raise AssertionError("a client has no logger")
        return super().training_step(batch, batch_idx) + 0 * self.inner(batch[0]).sum()

    def on_train_epoch_start(self) -> None:
        self.seen.append(self.inner.current_epoch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.inner.measure(batch)


def test_modules_inside_log_and_count_as_their_outer_one(tmp_path: Path) -> None:
    federation = build(composed("local"), tmp_path, module=Outer(), train=TRAIN, test=TEST)
    federation.run()
    assert federation.history[-1]["accuracy/personalized"] == 0.25
    assert federation.trainer.module.seen[-2:] == [2, 3]
    assert type(federation.trainer.copy_of(federation.clients[0]).inner).__name__ == "Inner"


class KeepsWhatItReturned(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.kept.append(outputs)


class ReturnsMore(KeepsWhatItReturned):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 1 else {"loss": super().training_step(batch, batch_idx), "logits": self(batch[0])}


def test_outputs_come_without_their_graph_and_as_a_mapping(tmp_path: Path) -> None:
    for module, keys in (
        (KeepsWhatItReturned(), [["loss"]] * 3),
        (ReturnsMore(), [["loss", "logits"], [], ["loss", "logits"]]),
    ):
        federation = build(composed("local"), tmp_path / type(module).__name__, module=module, train=TRAIN, test=TEST)
        federation.trainer.fit(federation.clients[0], LocalFit(epochs=1), 0)
        kept = federation.trainer.module.kept
        assert [list(outputs) for outputs in kept] == keys
        assert not any(value.requires_grad for outputs in kept for value in outputs.values())
