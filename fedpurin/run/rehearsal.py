"""One small step with every hook of a module's own around it, on a copy, before a run starts.

Hooks ask for what a client does not have (a Trainer, its metrics, a data module), and would do so only at the end of the
first client's first epoch. Owns: that step, its order and its errors. Does not own: the trial of the two steps themselves
(module.py), when a fit calls a hook (local/trainer.py).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from lightning import LightningModule

from fedpurin.config import ConfigError
from fedpurin.local.frozen import FrozenParts
from fedpurin.local.hooks import CALLED, one_line, overridden
from fedpurin.local.optimizer import Optimization, configured
from fedpurin.local.trainer import detached, loss_of


def rehearse(copy: LightningModule, batch: Any, test_batch: Any) -> None:
    """Fit the copy for one step, and end a validation epoch, as `LocalTrainer` does; nothing for a module without hooks.

    Raises:
        ConfigError: a hook failed, or changed what is no part of a client.
    """
    if not any(overridden(copy, hook) for hook in CALLED):
        return
    try:
        optimization = configured(copy)
    except Exception:  # named by itself, once the methods have had their say (`check_optimizers`)
        return
    try:
        _rehearse(copy, optimization, batch, test_batch)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"model: a step of {type(copy).__name__} failed: {one_line(error)}") from error


def _rehearse(copy: LightningModule, optimization: Optimization, batch: Any, test_batch: Any) -> None:
    optimizer, frozen = optimization.optimizer, FrozenParts(copy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a module that logs has no trainer, and Lightning says so
        copy.train()
        for hook in ("on_fit_start", "on_train_start", "on_train_epoch_start"):
            _call(copy, hook)
        _call(copy, "on_train_batch_start", batch, 0)
        output = copy.training_step(batch, 0)
        if output is not None:
            _call(copy, "on_before_zero_grad", optimizer)
            optimizer.zero_grad()
            loss = loss_of(output)
            _call(copy, "on_before_backward", loss)
            loss.backward()  # type: ignore[no-untyped-call]
            _call(copy, "on_after_backward")
            _call(copy, "on_before_optimizer_step", optimizer)
            _call(copy, "configure_gradient_clipping", optimizer, None, None)
            optimizer.step()
        _schedule(copy, optimization, "step")
        _call(copy, "on_train_batch_end", detached(output), batch, 0)
        _schedule(copy, optimization, "epoch")
        for hook in ("on_train_epoch_end", "on_train_end", "on_fit_end"):
            _call(copy, hook)
        frozen.check()
        copy.eval()
        with torch.no_grad():
            _call(copy, "on_validation_epoch_start")
            copy.validation_step(test_batch, 0)
            _call(copy, "on_validation_epoch_end")


def _call(module: LightningModule, hook: str, *arguments: Any) -> None:
    if not overridden(module, hook):
        return
    try:
        getattr(module, hook)(*arguments)
    except Exception as error:
        raise ConfigError(f"model: {type(module).__name__}.{hook} failed: {one_line(error)}") from error


def _schedule(module: LightningModule, optimization: Any, interval: str) -> None:
    """The module's own way of stepping a schedule, where it has one; the first turn of each."""
    for schedule in optimization.schedules if overridden(module, "lr_scheduler_step") else ():
        if schedule.interval == interval and not schedule.reduce_on_plateau:
            _call(module, "lr_scheduler_step", schedule.scheduler, None)
