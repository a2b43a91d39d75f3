"""A client's persistent state, the store of one rank's clients, and one local fit.

Owns: what a client keeps between rounds (`Client`), the rank's one live module into which a client is loaded
by a copy (`LocalTrainer`), the batch loop of a local fit (METHOD step 1) and a client's evaluation (step 8).
Does not own: who takes part, what is exchanged, what a method does with a fitted client; the perturbation
scores and the mask, which a callback computes when a fit ends (`callbacks/mask_selection.py`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float32, Int64, UInt8
from lightning import Fabric, LightningModule
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import Metric

from fedpurin.config import ConfigError
from fedpurin.data import Pool
from fedpurin.seeding import seed_global, torch_generator
from fedpurin.space import ParameterSpace, Segment

ACCURACY_NAMES = ("accuracy", "acc", "val_accuracy", "val_acc", "val/accuracy", "val/acc", "valid_accuracy")


class Diverged(ArithmeticError):
    """Something of the fit is not finite; a callback raises it from `on_fit_end` to have the client left out."""


@dataclass
class Client:
    """What one client keeps from round to round. Only its owner rank holds it.

    `vector` is the client's personalised model in the order of the parameter space; `buffers` are its running
    statistics; `mask` is the packed critical-parameter mask of its last fit; `extra` holds vectors that a method
    keeps per client (Ditto's second model, pFedSD's teacher); `metrics` are its latest measured values.
    """

    id: int
    vector: Float32[Tensor, " length"]
    buffers: dict[str, Tensor]
    train_indices: Int64[Tensor, " num_train"]
    test_indices: Int64[Tensor, " num_test"]
    mask: UInt8[Tensor, " length/8"] | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def num_train(self) -> int:
        return len(self.train_indices)


@dataclass(frozen=True)
class FitResult:
    """How a local fit went. `diverged` names what was not finite; the client then kept its last good state."""

    loss: float
    seconds: float
    num_steps: int
    diverged: str | None = None

    def then(self, next: FitResult) -> FitResult:
        """Both fits of a client that fits twice in a round; the loss is the later one's."""
        return FitResult(
            next.loss, self.seconds + next.seconds, self.num_steps + next.num_steps, self.diverged or next.diverged
        )


class LocalTrainer:
    """Trains and evaluates this rank's clients, one at a time, in one live module.

    Between `fit` and the next `load`, `vector` (a view of all live parameters) holds the fitted model, `gradient`
    the last mini-batch's gradient of the shared parameters, and `client.vector` still the model before the fit:
    that is what a callback's `on_fit_end(trainer, pl_module)` sees.
    """

    def __init__(
        self,
        fabric: Fabric,
        module: LightningModule,
        space: ParameterSpace,
        *,
        train: Pool,
        test: Pool,
        seed: int,
        local_epochs: int,
        batch_size: int,
        monitor: str | None = None,
    ) -> None:
        if not module.automatic_optimization:
            raise ConfigError(f"model: {type(module).__name__} optimises manually; clients need automatic optimisation")
        fabric.setup_module(module)  # once a rank: it hooks the module for good
        self.fabric, self.module, self.space = fabric, module, space
        self.train, self.test = train, test
        self.seed, self.local_epochs, self.batch_size, self.monitor = seed, local_epochs, batch_size, monitor
        self.vector = space.bind(module)
        self.gradient = torch.zeros(space.shared.length, device=self.vector.device)
        self.client: Client
        self.round = 0
        self._logged: dict[str, list[tuple[Any, int]]] | None = None
        self._batch_size = 0
        self._has_batch_norm = any(isinstance(child, _BatchNorm) for child in module.modules())
        # Through Fabric, self.log costs a device sync a call; here it only collects while evaluating.
        module.log = self._log  # type: ignore[method-assign]
        module.log_dict = self._log_dict  # type: ignore[method-assign, assignment]

    def new_client(self, id: int, train_indices: Tensor, test_indices: Tensor) -> Client:
        """A client that starts from the module's present weights and buffers, as every client does."""
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        device = self.vector.device
        return Client(id, self.vector.clone(), buffers, train_indices.to(device), test_indices.to(device))

    def load(self, client: Client, vector: Tensor | None = None) -> None:
        """Make the client's model (or another vector, with the client's buffers) the live one."""
        self.client = client
        self.vector.copy_(client.vector if vector is None else vector)
        for name, buffer in self.module.named_buffers():
            buffer.copy_(client.buffers[name])

    def fit(
        self,
        client: Client,
        round: int,
        *,
        epochs: int | None = None,
        trains: Callable[[Segment], bool] | None = None,
        purpose: str = "fit",
        vector: Tensor | None = None,
    ) -> FitResult:
        """Train the client on its own data and keep the result, unless it diverged.

        Args:
            epochs: local epochs; None takes the trainer's.
            trains: which segments may change (FedRep freezes the body, then the head); None: all.
            purpose: names the random streams, so that a method's second fit in a round draws its own order.
            vector: another model of the client to train instead, in place (Ditto's copy of the global one). The
                client's own model and buffers stay as they are, and callbacks do not hear of this fit.
        """
        start = time.perf_counter()
        self.load(client, vector)
        self.round = round
        with self._frozen(trains):
            loss, num_steps = self._run_epochs(client, epochs or self.local_epochs, purpose)
        diverged = self._what_diverged(loss)
        if diverged is None and vector is not None:
            vector.copy_(self.vector)
        elif diverged is None:
            try:
                self.fabric.call("on_fit_end", trainer=self, pl_module=self.module)
                self.keep(client)
            except Diverged as error:
                diverged = str(error)
        return FitResult(loss, time.perf_counter() - start, num_steps, diverged)

    def keep(self, client: Client) -> None:
        """Store the live model as the client's."""
        client.vector.copy_(self.vector)
        for name, buffer in self.module.named_buffers():
            client.buffers[name].copy_(buffer)

    def _run_epochs(self, client: Client, epochs: int, purpose: str) -> tuple[float, int]:
        """SGD as the module defines it (METHOD step 1); mean loss of the last epoch and the number of steps."""
        module, fabric = self.module, self.fabric
        optimizer, schedulers = self._fresh_optimizer()
        order = torch_generator(self.seed, f"{purpose}/order", round=self.round, client=client.id)
        seed_global(self.seed, f"{purpose}/dropout", round=self.round, client=client.id)
        num_batches = -(-client.num_train // self.batch_size)
        if self._has_batch_norm and client.num_train % self.batch_size == 1 and num_batches > 1:
            num_batches -= 1  # batch statistics of a single sample do not exist
        module.train()
        module.on_train_start()
        step = 0
        for epoch in range(epochs):
            module.on_train_epoch_start()
            total = torch.zeros((), device=self.vector.device)
            batches = self.train.batches(client.train_indices, self.batch_size, generator=order)
            for index, batch in zip(range(num_batches), batches, strict=False):
                optimizer.zero_grad()
                with fabric.autocast():
                    loss = _loss_of(module.training_step(batch, index))
                fabric.backward(loss)
                if epoch == epochs - 1 and index == num_batches - 1:
                    self.gradient = self._last_gradient()
                optimizer.step()
                for scheduler in schedulers["step"]:
                    scheduler.step()
                total += loss.detach()
                step += 1
            for scheduler in schedulers["epoch"]:
                scheduler.step()
            module.on_train_epoch_end()
        module.on_train_end()
        return float(total) / num_batches, step  # the fit's only device sync

    def evaluate(self) -> dict[str, float]:
        """Run `validation_step` over the loaded client's test data; means of what it logged, by batch size.

        Raises:
            ConfigError: nothing that can serve as the accuracy was logged.
        """
        module = self.module
        module.eval()
        self._logged = defaultdict(list)
        with torch.no_grad():
            module.on_validation_epoch_start()
            for index, batch in enumerate(self.test.batches(self.client.test_indices, self.batch_size)):
                self._batch_size = _length_of(batch)
                with self.fabric.autocast():
                    module.validation_step(batch, index)
            self._batch_size = 1
            module.on_validation_epoch_end()
        logged, self._logged = self._logged, None
        values = {name: _mean(items) for name, items in logged.items()}
        return {**values, "accuracy": values[self._accuracy_name(values)]}

    def _accuracy_name(self, values: Mapping[str, float]) -> str:
        for name in [self.monitor] if self.monitor else ACCURACY_NAMES:
            if name in values:
                return name
        raise ConfigError(
            f"trainer.monitor={self.monitor}: validation_step of {type(self.module).__name__} logged "
            f"{sorted(values) or 'nothing'}; log 'accuracy' there, or name the metric with trainer.monitor"
        )

    def _fresh_optimizer(self) -> tuple[Any, dict[str, list[Any]]]:
        """The module's optimizer, new each round, and its schedulers by interval."""
        configured: Any = self.module.configure_optimizers()
        schedulers: list[Any] = []
        if isinstance(configured, dict):
            schedulers = [configured["lr_scheduler"]] if "lr_scheduler" in configured else []
            configured = configured["optimizer"]
        elif isinstance(configured, tuple):
            configured, schedulers = configured
        if isinstance(configured, list | tuple):
            if len(configured) != 1:
                raise ConfigError(f"model: {type(self.module).__name__} configures {len(configured)} optimizers, not 1")
            configured = configured[0]
        if not isinstance(configured, torch.optim.Optimizer):
            raise ConfigError(
                f"model: configure_optimizers of {type(self.module).__name__} returned "
                f"{type(configured).__name__}; a client needs one torch optimizer"
            )
        by_interval: dict[str, list[Any]] = {"step": [], "epoch": []}
        for item in schedulers:
            entry = item if isinstance(item, dict) else {"scheduler": item}
            by_interval[entry.get("interval", "epoch")].append(entry["scheduler"])
        return self.fabric.setup_optimizers(configured), by_interval

    def _last_gradient(self) -> Float32[Tensor, " shared_length"]:
        gradient = self.space.gather_gradients(self.module)
        scaler = getattr(self.fabric._strategy.precision, "scaler", None)
        return gradient / scaler.get_scale() if scaler is not None else gradient

    @contextmanager
    def _frozen(self, trains: Callable[[Segment], bool] | None) -> Iterator[None]:
        parameters = dict(self.module.named_parameters())
        frozen = [parameters[s.name] for s in self.space.layout if trains is not None and not trains(s)]
        for parameter in frozen:
            parameter.requires_grad_(False)
            parameter.grad = None
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def _what_diverged(self, loss: float) -> str | None:
        if loss != loss or loss in (float("inf"), float("-inf")):
            return f"loss is {loss}"
        return None if bool(torch.isfinite(self.vector).all()) else "parameters are not finite"

    def _log(self, name: str, value: Any, *_: Any, batch_size: int | None = None, **__: Any) -> None:
        if self._logged is not None:
            detached = value.detach() if isinstance(value, Tensor) else value
            self._logged[name].append((detached, batch_size or self._batch_size))

    def _log_dict(self, dictionary: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        for name, value in dictionary.items():
            self._log(name, value, *args, **kwargs)


def _loss_of(output: Any) -> Tensor:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise ConfigError(f"model: training_step returned {type(output).__name__}; return the loss or {{'loss': …}}")
    return loss


def _length_of(batch: Any) -> int:
    return len(batch[0]) if isinstance(batch, list | tuple) else len(batch)


def _mean(items: list[tuple[Any, int]]) -> float:
    last = items[-1][0]
    if isinstance(last, Metric):  # a torchmetrics object accumulates by itself
        value = float(last.compute())
        last.reset()
        return value
    weight = sum(size for _, size in items)
    return float(sum(value * size for value, size in items)) / weight
