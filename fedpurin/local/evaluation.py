"""What a module logs, and measuring a client's model on its own test data (METHOD step 8).

Owns: `self.log` and `self.log_dict` of the live module, means by batch size, the evaluation of the loaded client. Does
not own: the names that values are recorded under (fedpurin/metrics.py), which models are measured (federation.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Fabric, LightningModule
from torch import Tensor
from torchmetrics import Metric

from fedpurin import metrics
from fedpurin.config import ConfigError
from fedpurin.data import Samples
from fedpurin.local.hooks import lightning_parts

Items = list[tuple[Any, int, str]]
"""Logged values, each with the number of samples that it stands for and how several become one."""
REDUCTIONS = {"mean": "mean", "avg": "mean", "max": "max", "min": "min", "sum": "sum"}
"""Lightning's `reduce_fx`, by name."""


class MetricLog:
    """Takes the place of the module's `log`: through Fabric each call would cost a synchronisation of the device.

    It keeps values only while somebody collects them, and reads none before the end.
    """

    def __init__(self, module: LightningModule) -> None:
        self.batch_size = 1
        self._kept: dict[str, Items] | None = None
        self._metrics: dict[int, Metric] = {}
        self.has_metrics = False
        """Whether training logs torchmetrics objects, which have one state for all clients."""
        for part in (module, *lightning_parts(module)):
            vars(part)["log"], vars(part)["log_dict"] = self._log, self._log_dict

    @contextmanager
    def collecting(self, batch_size: int = 1) -> Iterator[dict[str, Items]]:
        """What the module logs meanwhile, by name."""
        before, self._kept, self.batch_size = self._kept, defaultdict(list), batch_size
        try:
            yield self._kept
        finally:
            self._kept = before

    def reset_metrics(self) -> None:
        """An epoch of training is over: the torchmetrics objects that were logged in it begin anew, as Lightning has it."""
        for metric in self._metrics.values():
            metric.reset()
        self._metrics.clear()

    def _log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: Any = "mean",
        *_: Any,
        batch_size: int | None = None,
        **__: Any,
    ) -> None:
        if self._kept is not None:
            detached = value.detach() if isinstance(value, Tensor) else value
            self._kept[name].append((detached, batch_size or self.batch_size, _reduction(name, reduce_fx)))
        if isinstance(value, Metric):
            self._metrics[id(value)] = value
            self.has_metrics = self.has_metrics or self._kept is None

    def _log_dict(self, dictionary: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        for name, value in dictionary.items():
            self._log(name, value, *args, **kwargs)


class Evaluation:
    """Measures the live model with the module's own `validation_step`."""

    def __init__(
        self, fabric: Fabric, module: LightningModule, log: MetricLog, pool: Samples, monitor: str | None
    ) -> None:
        self.fabric, self.module, self.log, self.pool, self.monitor = fabric, module, log, pool, monitor

    def run(self, indices: Tensor, batch_size: int) -> dict[str, float]:
        """Means of what `validation_step` logs over these test samples, by batch size, as `named` calls them."""
        module = self.module
        module.eval()
        with torch.no_grad(), self.log.collecting() as logged:
            module.on_validation_epoch_start()
            for index, batch in enumerate(self.pool.batches(indices, batch_size)):
                self.log.batch_size = min(batch_size, len(indices) - index * batch_size)
                with self.fabric.autocast():
                    module.validation_step(batch, index)
            self.log.batch_size = 1
            module.on_validation_epoch_end()
        return self.named(means(logged, "validation_step"))

    def named(self, values: Mapping[str, float]) -> dict[str, float]:
        """Measured values under the stems that they are recorded by: `accuracy`, `test/NAME`.

        Raises:
            ConfigError: nothing that can serve as the headline was logged.
        """
        names = metrics.stems(values, self.monitor)
        if (self.monitor or metrics.ACCURACY) not in (*values, *names.values()):
            raise ConfigError(
                f"trainer.monitor={self.monitor}: validation_step of {type(self.module).__name__} logged "
                f"{sorted(values) or 'nothing'}; log 'accuracy' there, or name the value that the run is judged by: "
                "trainer.monitor=NAME, and trainer.monitor_mode=min where less is better"
            )
        return {names[name]: value for name, value in values.items()}


def _reduction(name: str, reduce_fx: Any) -> str:
    named = str(reduce_fx if isinstance(reduce_fx, str) else getattr(reduce_fx, "__name__", reduce_fx)).lower()
    if named not in REDUCTIONS:
        raise ConfigError(f"model: {name!r} is logged with reduce_fx={named}; possible are mean, max, min, sum")
    return REDUCTIONS[named]


def means(logged: Mapping[str, Items], step: str) -> dict[str, float]:
    """The mean of each logged name.

    Raises:
        ConfigError: a value is no single number.
    """
    return {name: _mean(name, items, step) for name, items in logged.items()}


def _mean(name: str, items: Items, step: str) -> float:
    last = items[-1][0]
    try:
        if isinstance(last, Metric):  # a torchmetrics object accumulates by itself
            value = float(last.compute())
            last.reset()
            return value
        values, reduction = [value for value, _, _ in items], items[0][2]
        if reduction != "mean":
            numbers = [float(value) for value in values]
            return sum(numbers) if reduction == "sum" else max(numbers) if reduction == "max" else min(numbers)
        weight = sum(size for _, size, _ in items)
        return float(sum(value * size for value, size, _ in items)) / weight
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"a tensor {list(last.shape)}" if isinstance(last, Tensor) else type(last).__name__
        raise ConfigError(f"model: {step} logged {name!r} as {what}; one number is possible ({error})") from None
