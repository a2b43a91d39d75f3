"""Which executor a run takes: decided once, before clients are placed, by the options and the module alone.

The choice may not depend on a clock or on the number of ranks, because cohorts change the last bits of a fit. So
`trainer.executor=auto` counts the operations of one step, where a measurement would decide by chance: below
`SMALL_STEP_FLOPS` the calls of a step cost more than its arithmetic and a cohort pays (benchmarks/round.py measures both).

Owns: the rule, the size of a cohort, the trial that shows whether a module can be batched. Does not own: executors.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchmetrics import Metric

from fedpurin.config import Config, ConfigError
from fedpurin.data.samples import Collated
from fedpurin.local.client import Client
from fedpurin.local.cohort import CohortExecutor
from fedpurin.local.executor import Plan, SerialExecutor
from fedpurin.local.graph import RECORDERS, GraphExecutor
from fedpurin.local.hooks import BATCH_HOOKS, overridden
from fedpurin.local.stack import configured_optimizer
from fedpurin.local.trainer import LocalTrainer

SMALL_STEP_FLOPS = 32_000_000
"""Floating-point operations of a forward pass, one batch: above it, batched convolutions are slower than a loop."""

LARGEST_COHORT = 25
"""From about fifty clients on, CPU kernels of grouped convolutions fall off a cliff."""

STEP_HOOKS = (
    "on_fit_start",
    "on_train_start",
    "on_train_end",
    "on_train_epoch_start",
    "on_train_epoch_end",
    *BATCH_HOOKS,
)
EVALUATION_HOOKS = ("on_validation_epoch_start", "on_validation_epoch_end")
COUNTERS = ("current_epoch", "global_step", "trainer")


def choose_executor(
    config: Config, trainer: LocalTrainer, plan: Callable[[Client, int], Plan], callbacks: Sequence[Any]
) -> tuple[SerialExecutor, str]:
    """The executor, and why it is this one (a line for the log).

    Raises:
        ConfigError: `trainer.executor=cohort` for a module that cannot be batched, a cohort larger than the run,
            `trainer.executor=graph` without a CUDA device, or no client that fits into its memory.
    """
    wanted, num_clients = config.trainer.executor, config.partition.num_clients
    size, device = config.trainer.cohort, trainer.vector.device.type
    if wanted == "graph" and device not in RECORDERS:
        raise ConfigError(
            f"trainer.executor=graph needs a CUDA device, and clients train on {device} "
            f"(trainer.accelerator={config.trainer.accelerator}); take auto, serial or cohort"
        )
    if wanted == "serial":
        if size != "auto":
            raise ConfigError(f"trainer.cohort={size} has no effect with trainer.executor=serial")
        return SerialExecutor(trainer), "serial, as asked for"
    if size != "auto" and size > num_clients:
        raise ConfigError(f"trainer.cohort={size} is more than partition.num_clients={num_clients}")
    flops = _step_flops(trainer) if wanted != "cohort" else 0
    if wanted == "auto" and (trainer.vector.is_cuda or flops > SMALL_STEP_FLOPS or num_clients < 2):
        return SerialExecutor(trainer), f"serial: a forward pass takes {flops / 1e6:.0f} million operations"
    if size == "auto":
        size = cohort_size(config) if flops <= SMALL_STEP_FLOPS else 1
    if wanted == "auto" and size < 2:
        return SerialExecutor(trainer), f"serial: too few clients for cohorts ({num_clients})"
    executor = GraphExecutor(trainer, size) if wanted == "graph" else CohortExecutor(trainer, size)
    with _loops_of_vmap() as loops:
        why = _why_not(trainer, config, callbacks) or _try(executor, plan)
    if why is not None and wanted == "cohort":
        raise ConfigError(f"trainer.executor=cohort is not possible: {why}; use trainer.executor=serial")
    if why is None and wanted == "auto" and loops:
        why = "vmap has a loop in the place of one of its operations"
    if why is not None:
        return SerialExecutor(trainer), f"serial, a client at a time: {why}"
    smaller = _halve(executor, plan) if device in RECORDERS else ""
    if isinstance(executor, GraphExecutor):
        executor.forget()
        executor.is_trial = False
    together = "fits and evaluations" if executor.evaluates_together else "fits; evaluations are one by one"
    kind = "recorded cohorts" if wanted == "graph" else "cohorts"
    return executor, f"{kind} of {executor.block} clients{smaller} ({together})"


def _halve(executor: CohortExecutor, plan: Callable[[Client, int], Plan]) -> str:
    """Halve the cohort until a step of all its clients fits into the device's memory; says so where it had to.

    Raises:
        ConfigError: not even one client fits.
    """
    asked, trainer = executor.block, executor.trainer
    count = min(trainer.batch_size, trainer.train.num_samples)
    while True:
        try:
            with torch.random.fork_rng(), _restored(trainer.module):
                for _ in range(2):  # the second time, a graph executor records
                    _fit_some(executor, trainer, plan, count, -2, executor.block)
        except torch.OutOfMemoryError as error:
            if executor.block == 1:
                raise ConfigError(f"trainer.executor: not one client fits into the device's memory ({error})") from None
            executor.block //= 2
            if isinstance(executor, GraphExecutor):
                executor.forget()
            continue
        return "" if executor.block == asked else f", not {asked}, for which the device's memory does not suffice"


@contextmanager
def _loops_of_vmap() -> Iterator[list[str]]:
    """What torch says of operations that it can only loop over (a recurrent layer's), which is slower than one by one."""
    loops: list[str] = []
    always = torch.is_warn_always_enabled()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.set_warn_always(True)  # otherwise the second run of a process would choose otherwise than the first
        try:
            yield loops
        finally:
            torch.set_warn_always(always)
    for each in told:
        if "batching rule" in str(each.message):
            loops.append(str(each.message))
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def cohort_size(config: Config) -> int:
    """Consecutive ids a cohort, so that about LARGEST_COHORT take part a round and four ranks have one each."""
    clients, taking_part = (
        config.partition.num_clients,
        config.trainer.clients_per_round or config.partition.num_clients,
    )
    return max(1, min(LARGEST_COHORT * clients // taking_part, -(-clients // 4)))


def _step_flops(trainer: LocalTrainer) -> int:
    """Operations of a forward pass over one batch of `trainer.batch_size` samples."""
    count = min(2, trainer.train.num_samples)
    batch = next(iter(trainer.train.batches(torch.arange(count), count)))
    counter = FlopCounterMode(display=False)
    with torch.random.fork_rng(), _restored(trainer.module), torch.no_grad(), counter:
        trainer.module.training_step(batch, 0)
    return counter.get_total_flops() * trainer.batch_size // count


def _why_not(trainer: LocalTrainer, config: Config, callbacks: Sequence[Any]) -> str | None:
    """What of the module, the options or the callbacks only a serial fit honours."""
    module = trainer.module
    if isinstance(trainer.train, Collated):
        return "a collate function makes the batches"
    if config.trainer.precision != "32-true":
        return f"trainer.precision={config.trainer.precision}"
    if config.trainer.channels_last:
        return "trainer.channels_last=true"
    if configured_optimizer(module) is None:
        return f"{type(module).__name__}.configure_optimizers is not one element-wise optimizer without a schedule"
    for hook in STEP_HOOKS:
        if overridden(module, hook):
            return f"{type(module).__name__} overrides {hook}"
        for callback in callbacks:
            if overridden(callback, hook):
                return f"the callback {type(callback).__name__} has {hook}"
    for step in ("training_step", "configure_optimizers"):
        code = getattr(getattr(type(module), step), "__code__", None)
        for name in COUNTERS:
            if code is not None and name in code.co_names:
                return f"{type(module).__name__}.{step} reads {name}"
    return None


def _try(executor: CohortExecutor, plan: Callable[[Client, int], Plan]) -> str | None:
    """Fit two clients of a few samples both ways. Returns why they may not be fitted together, None if they may.

    Evaluations, too, go together only where that measures what one by one does.
    """
    trainer = executor.trainer
    start = {name: buffer.clone() for name, buffer in trainer.buffers().items()}
    count = min(4, trainer.train.num_samples, trainer.batch_size)
    try:
        with torch.random.fork_rng(), _restored(trainer.module):
            runs: list[tuple[SerialExecutor, int]] = [(SerialExecutor(trainer), -2), (SerialExecutor(trainer), -3)]
            runs += [(executor, -2), (executor, -3)] if isinstance(executor, GraphExecutor) else [(executor, -2)]
            outcomes = []
            for run, number in runs:
                with _restored(trainer.module):  # all start from the same weights
                    outcomes.append(_fit_some(run, trainer, plan, count, number))
                    if _updates_metrics(trainer):
                        return "training_step updates a torchmetrics object, which has one state for all clients"
            clients = [trainer.new_client(client_id, torch.arange(count), torch.arange(1)) for client_id in (0, 1)]
            executor.evaluates_together = not any(
                overridden(trainer.module, hook) for hook in EVALUATION_HOOKS
            ) and _measures_alike(executor, clients)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    serial, again, *cohorts = outcomes
    is_random = any(
        not torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(_all(serial), _all(again), strict=True)
    )
    for alone, cohort in zip((serial, again), cohorts, strict=False):
        if is_random and (name := _stray_buffer(start, serial, again, cohort)) is not None:
            return f"a cohort does not move the buffer {name} as its clients do alone"
        if not is_random and not all(
            torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True)
            for a, b in zip(_all(alone), _all(cohort), strict=True)
        ):
            return "a cohort does not learn what its clients learn alone"
    return None


def _stray_buffer(
    start: Mapping[str, Tensor], serial: Sequence[Client], again: Sequence[Client], cohort: Sequence[Client]
) -> str | None:
    """A buffer that shows, where a module draws (dropout), that a cohort does other than its clients do alone.

    What two serial fits have in common was not drawn, so a cohort must have it too; what both move may not stay.
    """
    for name, before in start.items():
        for one, two, three in zip(serial, again, cohort, strict=True):
            a, b, c = (client.buffers[name].double() for client in (one, two, three))
            if torch.allclose(a, b, rtol=1e-5, atol=1e-7):
                is_stray = not torch.allclose(a, c, rtol=1e-3, atol=1e-4)
            else:
                is_stray = torch.equal(c, before.double())
            if is_stray:
                return name
    return None


def _all(clients: Sequence[Client]) -> list[Tensor]:
    """All state that these clients have."""
    return [t.float() for c in clients for t in (c.vector, *c.extra.values(), *c.buffers.values())]


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Whatever is tried meanwhile, the module is afterwards what it was: buffers outside its `state_dict` as well."""
    state = copy.deepcopy(module.state_dict())
    others = {name: buffer.clone() for name, buffer in module.named_buffers() if name not in state}
    try:
        yield
    finally:
        module.load_state_dict(state)
        for name, buffer in module.named_buffers():
            if name in others:
                buffer.copy_(others[name])
        for part in module.modules():
            if isinstance(part, Metric):
                part.reset()


def _updates_metrics(trainer: LocalTrainer) -> bool:
    """Whether a fit has logged torchmetrics objects, or left one that it has updated."""
    metrics = [part for part in trainer.module.modules() if isinstance(part, Metric)]
    return trainer.log.has_metrics or any(metric.update_called for metric in metrics)


def _measures_alike(executor: CohortExecutor, clients: Sequence[Client]) -> bool:
    vectors = [client.vector for client in clients]
    try:
        alone = SerialExecutor(executor.trainer).evaluate(clients, vectors)
        together = executor.evaluate(clients, vectors)
    except Exception:  # whatever it is, evaluations go one by one; they have no result to protect
        return False
    return all(
        own.keys() == other.keys() and all(math.isclose(own[n], other[n], rel_tol=1e-3, abs_tol=1e-4) for n in own)
        for own, other in zip(alone, together, strict=True)
    )


def _fit_some(
    executor: SerialExecutor,
    trainer: LocalTrainer,
    plan: Callable[[Client, int], Plan],
    count: int,
    round_number: int,
    num_clients: int = 2,
) -> list[Client]:
    """Clients of so many samples after one epoch of every fit that the method plans for them."""
    # The same samples for all: their order within the one batch does not matter.
    clients = [trainer.new_client(i, torch.arange(count), torch.arange(1)) for i in range(num_clients)]
    plans = [[replace(fit, epochs=1, scored=False) for fit in plan(client, 0)] for client in clients]
    executor.fit(clients, plans, round_number)
    return clients
