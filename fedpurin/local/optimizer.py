"""A client's optimizer and its schedules: what `configure_optimizers` may return, and when a schedule steps.

Both are made anew for every fit. Owns: the forms that Lightning documents, their refusals, the schedules' turns. Does
not own: the batch loop (`trainer.py`), the optimizer of a cohort (`stack.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fedpurin.config import ConfigError, did_you_mean
from fedpurin.local.hooks import overridden

CONFIGURED = ("optimizer", "lr_scheduler", "monitor")
SCHEDULED = ("scheduler", "interval", "frequency", "monitor", "reduce_on_plateau", "strict", "name")


@dataclass(frozen=True)
class Schedule:
    """One scheduler and its turns: every `frequency` epochs of a fit, or batches of an epoch, as Lightning counts."""

    scheduler: Any
    interval: str = "epoch"
    frequency: int = 1
    monitor: str | None = None
    reduce_on_plateau: bool = False
    strict: bool = True
    name: str | None = None


@dataclass(frozen=True)
class Optimization:
    """What steps in a fit."""

    optimizer: torch.optim.Optimizer
    schedules: tuple[Schedule, ...] = ()

    @property
    def is_monitored(self) -> bool:
        """Whether a schedule waits for what the module logs in training."""
        return any(schedule.reduce_on_plateau for schedule in self.schedules)

    def step(
        self,
        module: LightningModule,
        interval: str,
        index: int,
        *,
        plateau: bool,
        logged: Callable[[], Mapping[str, float]],
    ) -> None:
        """Step the schedules whose turn comes with the epoch, or the batch of an epoch, of this index.

        Raises:
            ConfigError: a monitored value that training did not log.
        """
        for schedule in self.schedules:
            if schedule.reduce_on_plateau is not plateau or schedule.interval != interval:
                continue
            if (index + 1) % schedule.frequency:
                continue
            metric = None
            if plateau:
                values = logged()
                metric = values.get(str(schedule.monitor).removesuffix("_epoch"), values.get(str(schedule.monitor)))
                if metric is None and not schedule.strict:
                    continue
                if metric is None:
                    raise ConfigError(
                        f"model: a scheduler of {type(module).__name__} monitors {schedule.monitor!r}, and training "
                        f"logged {', '.join(sorted(values))}; clients are not validated while they fit: log it in "
                        "training_step, or monitor 'loss'"
                    )
            try:
                if overridden(module, "lr_scheduler_step"):
                    module.lr_scheduler_step(schedule.scheduler, metric)
                elif metric is None:
                    schedule.scheduler.step()
                else:
                    schedule.scheduler.step(metric)
            except ValueError as error:  # OneCycleLR has an end
                raise ConfigError(
                    f"model: {type(schedule.scheduler).__name__} of {type(module).__name__}: {' '.join(str(error).split())} "
                    "(schedules are made anew for every fit, of trainer.local_epochs epochs)"
                ) from error


def configured(module: LightningModule) -> Optimization:
    """The module's optimizer with its schedules, new.

    Raises:
        ConfigError: not one optimizer, or a schedule that says what we do not know.
    """
    name = type(module).__name__
    found: Any = module.configure_optimizers()
    schedulers: list[Any] = []
    monitor = None
    if isinstance(found, list | tuple) and len(found) == 1 and isinstance(found[0], Mapping):
        found = found[0]
    if isinstance(found, Mapping):
        _check_keys(found, CONFIGURED, f"configure_optimizers of {name} returned")
        if "optimizer" not in found:
            raise ConfigError(f"model: configure_optimizers of {name} returned no 'optimizer'")
        monitor = found.get("monitor")
        schedulers = [found["lr_scheduler"]] if found.get("lr_scheduler") is not None else []
        found = found["optimizer"]
    elif isinstance(found, list | tuple) and len(found) == 2 and isinstance(found[0], list | tuple):
        found, schedulers = found
        schedulers = list(schedulers) if isinstance(schedulers, list | tuple) else [schedulers]
    if isinstance(found, list | tuple):
        if len(found) != 1:
            raise ConfigError(f"model: {name} configures {len(found)} optimizers, not 1")
        found = found[0]
    if not isinstance(found, torch.optim.Optimizer):
        raise ConfigError(
            f"model: configure_optimizers of {name} returned {type(found).__name__}; a client needs one torch optimizer"
        )
    closure = inspect.signature(found.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ConfigError(
            f"model: {type(found).__name__} of {name} evaluates the loss several times a step (closure), which clients' "
            "fits do not do; take an optimizer that steps once a batch"
        )
    return Optimization(found, tuple(_schedule(item, monitor, name) for item in schedulers))


def _schedule(item: Any, monitor: str | None, name: str) -> Schedule:
    entry = dict(item) if isinstance(item, Mapping) else {"scheduler": item}
    _check_keys(entry, SCHEDULED, f"a scheduler of {name} has")
    if "scheduler" not in entry:
        raise ConfigError(f"model: a scheduler of {name} has no 'scheduler', only {', '.join(map(repr, entry))}")
    entry.setdefault("monitor", monitor)
    entry.setdefault("reduce_on_plateau", isinstance(entry["scheduler"], ReduceLROnPlateau))
    schedule = Schedule(**entry)
    if schedule.interval not in ("epoch", "step"):
        raise ConfigError(f"model: a scheduler of {name} has interval={schedule.interval!r}; 'epoch' or 'step'")
    if not isinstance(schedule.frequency, int) or schedule.frequency < 1:
        raise ConfigError(f"model: a scheduler of {name} has frequency={schedule.frequency!r}; a number from 1")
    if schedule.reduce_on_plateau and schedule.monitor is None:
        raise ConfigError(
            f"model: a scheduler of {name} reduces on a plateau and has no 'monitor': name a value that training_step "
            "logs, or 'loss'"
        )
    return schedule


def _check_keys(entry: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for key in entry:
        if key not in known:
            raise ConfigError(f"model: {what} {key!r}; possible are {', '.join(known)}{did_you_mean(str(key), known)}")
