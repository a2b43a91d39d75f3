"""The rank's one live module: loading a client into it, and fits of one client at a time.

Owns: the live module, whose parameters are views of one flat vector; the batch loop of a local fit (METHOD step 1).
Does not own: what is to be fitted (`fit.py`, said by the method), optimizer and schedules (`optimizer.py`), logged values
and evaluation (`evaluation.py`), who takes part, what is exchanged; the perturbation scores and the mask, which a
callback computes when a fit ends (`callbacks/mask_selection.py`).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float32
from lightning import Fabric, LightningModule
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from fedpurin.config import ConfigError
from fedpurin.data import Samples
from fedpurin.local.client import Client, Diverged, FitResult
from fedpurin.local.context import LossContext, set_loss_context
from fedpurin.local.counters import counters_of
from fedpurin.local.evaluation import Evaluation, MetricLog, means
from fedpurin.local.fit import LocalFit
from fedpurin.local.frozen import FrozenParts
from fedpurin.local.hooks import BATCH_HOOKS, lightning_parts, overridden
from fedpurin.local.optimizer import Optimization, configured
from fedpurin.local.reach import Reach
from fedpurin.seeding import seed_global, torch_generator
from fedpurin.space import Layout, ParameterSpace, Segment


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
        train: Samples,
        test: Samples,
        seed: int,
        local_epochs: int,
        batch_size: int,
        monitor: str | None = None,
    ) -> None:
        fabric.setup_module(module)  # once a rank: it hooks the module for good
        self.fabric, self.module, self.space = fabric, module, space
        self.train, self.test = train, test
        self.seed, self.local_epochs, self.batch_size = seed, local_epochs, batch_size
        self.vector = space.bind(module)
        self.gradient = torch.zeros(space.shared.length, device=self.vector.device)
        self.client: Client
        self.counters = counters_of(module)
        self.log = MetricLog(module)
        self.evaluation = Evaluation(fabric, module, self.log, test, monitor)
        self._round_number = 0
        self._hooks = frozenset(hook for hook in BATCH_HOOKS if overridden(module, hook))
        self._still = still_buffers(module)
        self._frozen_parts = FrozenParts(module)
        self._trained = [p for p in module.parameters() if p.requires_grad]
        self._has_batch_norm = any(isinstance(child, _BatchNorm) for child in module.modules())

    @property
    def round_number(self) -> int:
        """The round of the present fit; trials have negative ones, which the module sees as 0."""
        return self._round_number

    @round_number.setter
    def round_number(self, number: int) -> None:
        self._round_number, self.counters.round = number, max(number, 0)

    def buffers(self) -> dict[str, Tensor]:
        """The live buffers that a fit may move: all but those of frozen layers in evaluation mode."""
        return {name: buffer for name, buffer in self.module.named_buffers() if name not in self._still}

    def new_client(
        self, client_id: int, train_indices: Tensor, test_indices: Tensor, vector: Tensor | None = None
    ) -> Client:
        """A client that starts from the module's present weights and buffers, as every client does.

        `vector` is its copy of the weights where the caller has made one.
        """
        buffers = {name: buffer.clone() for name, buffer in self.buffers().items()}
        device = self.vector.device
        counts = self.train.class_counts(train_indices)
        return Client(
            client_id,
            self.vector.clone() if vector is None else vector,
            buffers,
            train_indices.to(device),
            test_indices.to(device),
            class_counts=counts,
        )

    def load(self, client: Client, vector: Tensor | None = None) -> None:
        """Make the client's model (or another vector, with the client's buffers) the live one."""
        self.client = client
        self.vector.copy_(client.vector if vector is None else vector)
        for name, buffer in self.buffers().items():
            buffer.copy_(client.buffers[name])
        self.counters.current_epoch, self.counters.global_step = client.epochs, client.steps

    def fit_all(self, client: Client, fits: Sequence[LocalFit], round_number: int) -> FitResult:
        """A client's fits of one round, in order; the first that diverges is the last."""
        result = self.fit(client, fits[0], round_number)
        for fit in fits[1:]:
            if result.diverged is None:
                result = result.then(self.fit(client, fit, round_number))
        return result

    def fit(self, client: Client, fit: LocalFit, round_number: int) -> FitResult:
        """Train the client on its own data and keep the result, unless it diverged."""
        start = time.perf_counter()
        if fit.prepare is not None:
            fit.prepare(client)
        self.load(client, client.vector_named(fit.start))
        self.round_number = round_number
        for parameter in self._trained:  # an earlier client may have frozen some on its way
            parameter.requires_grad_(True)
        # A client keeps one set of running statistics; other models are run with those.
        models = {name: self.space.views(vector) | client.buffers for name, vector in fit.models.items()}
        with self._frozen(fit.trains), set_loss_context(LossContext(models, fit.values)):
            loss, num_steps = (self._probe(client), 0) if fit.probes else self._run_epochs(client, fit)
        self._frozen_parts.check()
        diverged = self.name_divergence(loss, bool(torch.isfinite(self.vector).all()))
        if diverged is None and fit.scored:
            try:
                self.fabric.call("on_fit_end", trainer=self, pl_module=self.module)
            except Diverged as error:
                diverged = str(error)
        if diverged is None and fit.keeps_gradient:
            client.store("gradient", self.gradient)
        if diverged is None:
            client.keep(fit, self.vector, self.buffers())
            client.count(0 if fit.probes else fit.epochs or self.local_epochs, num_steps)
        return FitResult(loss, time.perf_counter() - start, num_steps, diverged)

    def show(self, client: Client, vector: Tensor, buffers: Mapping[str, Tensor], gradient: Tensor) -> None:
        """Make what was fitted elsewhere the live model, as if it had been fitted here."""
        self.client, self.gradient = client, gradient
        self.counters.current_epoch, self.counters.global_step = client.epochs, client.steps
        self.vector.copy_(vector)
        for name, buffer in self.buffers().items():
            buffer.copy_(buffers[name])

    def copy_of(self, client: Client) -> LightningModule:
        """A module of its own on the CPU, in evaluation mode, with the client's model and running statistics."""
        self.load(client)
        parts = [self.module, *lightning_parts(self.module)]
        names = ("log", "log_dict", "_fabric", "_fabric_optimizers")
        attached = [{name: vars(part).pop(name) for name in names} for part in parts]
        try:
            for part in parts:
                vars(part).update(_fabric=None, _fabric_optimizers=[])
            module = copy.deepcopy(self.module)
        finally:
            for part, own in zip(parts, attached, strict=True):
                vars(part).update(own)
        return module.cpu().eval()

    def num_batches(self, client: Client) -> int:
        """Steps of one epoch."""
        count = -(-client.num_train // self.batch_size)
        if self._has_batch_norm and client.num_train % self.batch_size == 1 and count > 1:
            count -= 1  # batch statistics of a single sample do not exist
        return count

    def _run_epochs(self, client: Client, fit: LocalFit) -> tuple[float, int]:
        """SGD as the module defines it (METHOD step 1); mean loss of the last epoch and the number of steps."""
        module, fabric, purpose = self.module, self.fabric, fit.purpose
        epochs, reach = fit.epochs or self.local_epochs, Reach()
        held = None if fit.update_mask is None else (~fit.update_mask, self.vector[~fit.update_mask])
        limits = limits_of(fit, self.space.layout)
        optimization = (
            configured(module) if fit.lr is None else Optimization(torch.optim.SGD(module.parameters(), lr=fit.lr))
        )
        optimizer: Any = fabric.setup_optimizers(optimization.optimizer)
        order = torch_generator(self.seed, f"{purpose}/order", round_number=self.round_number, client=client.id)
        seed_global(self.seed, f"{purpose}/dropout", round_number=self.round_number, client=client.id)
        num_batches = self.num_batches(client)
        call, step, counted = self._call, 0, 0
        edits_gradients = not self._hooks.isdisjoint(("on_before_optimizer_step", "configure_gradient_clipping"))
        gathers_always = "on_train_batch_start" in self._hooks  # any step may be the last
        module.on_fit_start()  # on_fit_end comes from `fit`: Fabric counts the module among its callbacks
        module.train()
        module.on_train_start()
        for epoch in range(epochs):
            module.on_train_epoch_start()
            total, counted = torch.zeros((), device=self.vector.device), 0
            batches = self.train.batches(client.train_indices, self.batch_size, generator=order)
            with self._logging(optimization.is_monitored, lambda: total / max(1, counted)) as logged:  # noqa: B023
                for index, batch in zip(range(num_batches), batches, strict=False):
                    if call("on_train_batch_start", batch, index) == -1:  # Lightning's word for "no more of this epoch"
                        break
                    with fabric.autocast():
                        output = module.training_step(batch, index)
                    is_last = epoch == epochs - 1 and index == num_batches - 1
                    if output is None:  # Lightning's word for "not this batch"
                        if is_last:
                            self.gradient = self._last_gradient()  # of the last batch that had a loss
                        call("on_train_batch_end", detached(None), batch, index)
                        continue
                    loss = loss_of(output)
                    if not loss.requires_grad:
                        raise ConfigError(self._without_gradient(fit))
                    call("on_before_zero_grad", optimizer)
                    optimizer.zero_grad()
                    call("on_before_backward", loss)
                    fabric.backward(loss)
                    if gathers_always or is_last:
                        self.gradient = self._last_gradient()  # as the loss gave it: hooks may clip it from here on
                    call("on_after_backward")
                    if edits_gradients:
                        fabric._strategy.precision.unscale_gradients(optimizer.optimizer)
                        call("on_before_optimizer_step", optimizer)
                        call("configure_gradient_clipping", optimizer, None, None)
                    optimizer.step()
                    if held is not None:
                        self.vector[held[0]] = held[1]
                    for part, low, high in limits:
                        self.vector[part].clamp_(low, high)
                    if fit.measures_reach:
                        reach.step(optimizer.param_groups)
                    total += loss.detach()
                    step, counted = step + 1, counted + 1
                    self.counters.global_step += 1
                    optimization.step(module, "step", index, plateau=False, logged=logged)
                    call("on_train_batch_end", detached(output), batch, index)
                    optimization.step(module, "step", index, plateau=True, logged=logged)
                optimization.step(module, "epoch", epoch, plateau=False, logged=logged)
                module.on_train_epoch_end()
                optimization.step(module, "epoch", epoch, plateau=True, logged=logged)
            self.log.reset_metrics()
            self.counters.current_epoch += 1
        module.on_train_end()
        if step == 0:  # the parameters still have the gradient of whoever was fitted here before
            self.gradient = torch.zeros_like(self.gradient)
        client.reach = reach.total if fit.measures_reach else client.reach
        return float(total) / max(1, counted), step  # the fit's only device sync

    def _probe(self, client: Client) -> float:
        """The mean loss of the batches, from one pass without a step."""
        self.module.eval()
        losses = []
        batches = self.train.batches(client.train_indices, self.batch_size)
        for index, batch in enumerate(batches):
            with torch.no_grad(), self.fabric.autocast():
                output = self.module.training_step(batch, index)
            losses += [] if output is None else [loss_of(output).detach()]
        return float(torch.stack(losses).mean()) if losses else 0.0

    def _without_gradient(self, fit: LocalFit) -> str:
        """Why there is nothing to learn: a guessed head, say, that the loss does not use."""
        trained = [s.name for s in self.space.layout if fit.trains is None or fit.trains(s)]
        some = ", ".join(trained[:4]) + (", …" if len(trained) > 4 else "")
        head = f"; roles.head names another head than {self.space.head!r}" if fit.trains is not None else ""
        return (
            f"model: the loss of {type(self.module).__name__} depends on none of the parameters that "
            f"{'the method trains in this fit' if fit.trains is not None else 'are trained'} ({some}){head}"
        )

    @contextmanager
    def _logging(self, wanted: bool, loss: Callable[[], Tensor]) -> Iterator[Callable[[], dict[str, float]]]:
        """What an epoch logs, as means, with its mean `loss`; kept only where a schedule monitors a value."""
        if not wanted:
            yield dict
            return
        with self.log.collecting(self.batch_size) as logged:
            yield lambda: {"loss": float(loss())} | means(logged, "training_step")

    def _call(self, hook: str, *arguments: Any) -> Any:
        """Call a hook of the module if it is the module's own; the others do nothing."""
        return getattr(self.module, hook)(*arguments) if hook in self._hooks else None

    def evaluate(self) -> dict[str, float]:
        """Measure the loaded client's model on its own test data: `accuracy`, and `test/NAME` for all else."""
        return self.evaluation.run(self.client.test_indices, self.batch_size)

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

    @staticmethod
    def name_divergence(loss: float, is_finite: bool) -> str | None:
        """Why a fitted model must not be kept; None where all is finite."""
        if not math.isfinite(loss):
            return f"loss is {loss}"
        return None if is_finite else "parameters are not finite"


def still_buffers(module: LightningModule) -> frozenset[str]:
    """Buffers of parts that train nothing and that `module.train()` leaves in evaluation mode: the same for all clients."""
    modes = {part: part.training for part in module.modules()}
    module.train()
    still = {
        path
        for path, part in module.named_modules()
        if not part.training and not any(parameter.requires_grad for parameter in part.parameters())
    }
    for part, mode in modes.items():
        part.training = mode
    return frozenset(name for name, _ in module.named_buffers() if name.rpartition(".")[0] in still)


def limits_of(fit: LocalFit, layout: Layout) -> list[tuple[slice, float, float]]:
    """Where in the flat vector a fit's bounds hold, and which."""
    bounded = [(s.slice, fit.bounds(s)) for s in layout] if fit.bounds is not None else []
    return [(part, *bounds) for part, bounds in bounded if bounds is not None]


def loss_of(output: Any) -> Tensor:
    """The loss that `training_step` returned, by itself or in a mapping."""
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise ConfigError(f"model: training_step returned {type(output).__name__}; return the loss or {{'loss': …}}")
    return loss


def detached(output: Any) -> dict[str, Any]:
    """What `on_train_batch_end` gets, as Lightning has it: a mapping with the loss, without the graph; empty for no loss."""
    if output is None:
        return {}
    entries = dict(output) if isinstance(output, Mapping) else {"loss": output}
    return pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, entries)  # type: ignore[no-any-return]


def length_of(batch: Any) -> int:
    """Number of samples in a batch of any structure."""
    return len(pytree.tree_leaves(batch)[0])
