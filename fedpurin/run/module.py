"""The user's model becomes the clients' module: a copy, a LightningModule, with all its layers, tried once.

Owns: which objects are taken and which are refused, the hooks that make layers (`setup`, `configure_model`), lazy
layers, and the trial steps that name a model that cannot take these data. Does not own: how `config.model` is made
(`build.py`), the methods' changes of it (methods/), its training (local/).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import hydra
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from fedpurin.config import ConfigError
from fedpurin.data import Samples
from fedpurin.local.counters import counting
from fedpurin.local.hooks import (
    NOT_CALLED,
    REMOVED,
    STEPS,
    is_lightning,
    lightning_parts,
    one_line,
    overridden,
    takes_batch_index,
    without_index,
)  # fmt: skip
from fedpurin.local.optimizer import configured
from fedpurin.run.rehearsal import rehearse
from fedpurin.seeding import derive_seed

WRAPPERS = ("OptimizedModule", "DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "_FabricModule")
TRIAL_SAMPLES = 4


def client_module(model: Any, *, of_user: bool) -> LightningModule:
    """A LightningModule for the clients: of `lightning`, of `pytorch_lightning`, or a network to be classified with.

    Args:
        of_user: the object belongs to somebody who goes on using it; the run then works on a copy.

    Raises:
        ConfigError: it is none of these, has no steps, or cannot be copied.
    """
    name = type(model).__name__
    if name in WRAPPERS:
        raise ConfigError(f"model: a {name} wraps the network; give the network itself")
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: got {name}; a LightningModule or a torch network is possible")
    if of_user:
        try:
            model = copy.deepcopy(model, _without_shape(model))
        except Exception as error:
            raise ConfigError(
                f"model: the run works on a copy of {name}, which cannot be copied: {one_line(error)}"
            ) from error
    if not is_lightning(model):
        model = hydra.utils.get_class("lightning_modules.ImageClassifier")(model)
    for hook in (*STEPS, "configure_optimizers"):
        if not overridden(model, hook):
            raise ConfigError(f"model: {type(model).__name__} has no {hook}; a client needs one")
    ignored = [hook for hook in NOT_CALLED if overridden(model, hook)]
    if ignored:
        raise ConfigError(
            f"model: {type(model).__name__} overrides {', '.join(ignored)}, which clients' fits do not call"
        )
    if old := [hook for hook in REMOVED if overridden(model, hook)]:
        raise ConfigError(
            f"model: {type(model).__name__} has {', '.join(old)}, which Lightning calls no more since version 2; "
            f"write on_{old[0].removeprefix('on_').replace('training', 'train')} or another hook of today"
        )
    module = _adapted(model)
    if not module.automatic_optimization:
        raise ConfigError(f"model: {name} optimises manually; clients need automatic optimisation")
    return module


def _without_shape(model: nn.Module) -> dict[int, Any]:
    """For deepcopy: lazy buffers, say of a lazy batch norm, which torch cannot copy though nothing is in them yet."""
    return {
        id(buffer): UninitializedBuffer(device=buffer.device, dtype=buffer.dtype)  # type: ignore[call-arg]
        for buffer in model.buffers()
        if isinstance(buffer, UninitializedBuffer)
    }


def complete(module: LightningModule, pool: Samples) -> None:
    """Have the module make all of its layers: its own hooks do, and a batch gives lazy layers their shapes.

    Raises:
        ConfigError: a hook or the batch failed, or a parameter is not float32.
    """
    for hook, arguments in (("setup", ("fit",)), ("configure_model", ())):
        if overridden(module, hook):
            try:
                getattr(module, hook)(*arguments)
            except Exception as error:
                raise ConfigError(f"model: {type(module).__name__}.{hook} failed: {one_line(error)}") from error
    if any(is_lazy(parameter) for parameter in module.parameters()):
        training = module.training
        module.eval()  # running statistics stay as they are
        _step(module, "training_step", pool)
        module.train(training)
        left = [name for name, parameter in module.named_parameters() if is_lazy(parameter)]
        if left:
            raise ConfigError(f"model: training_step of {type(module).__name__} never uses {left[0]}, a lazy layer")
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise ConfigError(
                f"model: {name} of {type(module).__name__} is {parameter.dtype}; clients keep float32 parameters "
                "(module.float(); trainer.precision chooses what they are computed in)"
            )


def check_fit(module: LightningModule, train: Samples, test: Samples) -> None:
    """Try one small step of either kind without effect, so that a model that cannot take these data is named at once.

    Raises:
        ConfigError: a step failed.
    """
    _try(module, train, test)


def _try(
    module: LightningModule,
    train: Samples,
    test: Samples | None = None,
    count: int = TRIAL_SAMPLES,
    trains: bool = True,
) -> None:
    trial, state = module, None
    try:
        trial = copy.deepcopy(module)
    except Exception:  # some networks cannot be copied; their tensors can
        state = {name: value.clone() for name, value in module.state_dict().items()}
    modes = {child: child.training for child in trial.modules()}
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(0, "check"))
        try:
            if trains:
                output = _step(trial.train(), "training_step", train, count)
                _check_loss(module, output)
                if count == 1:
                    _check_gradient(trial, output)
            if test is not None:
                _step(trial.eval(), "validation_step", test, count)
            if trains and test is not None and trial is not module:
                batches = [pool.batches(torch.arange(min(count, pool.num_samples)), count) for pool in (train, test)]
                rehearse(trial, *map(next, map(iter, batches)))
        finally:
            for child, mode in modes.items():
                child.training = mode
            if state is not None:
                module.load_state_dict(state)


def check_optimizers(module: LightningModule) -> None:
    """Make the optimizer once and drop it, so that a value it refuses (a negative rate) is named before the start."""
    try:
        configured(module)
    except ConfigError:
        raise
    except Exception as error:
        what = f"model: configure_optimizers of {type(module).__name__}"
        raise ConfigError(f"{what}: {one_line(error).removeprefix('ValueError: ')}") from error


def check_single_samples(
    module: LightningModule, train: Samples, test: Samples, sizes: tuple[Sequence[int], Sequence[int]], batch_size: int
) -> None:
    """Try batches of one sample where some client has them: a client's only sample, or what is left for its last batch.

    Batch normalisation has no statistics there, unless feature maps are larger than a pixel; a fit leaves such a last
    batch out (`LocalTrainer.num_batches`). Other models fail too (`squeeze`, a standard deviation over the batch).

    Args:
        sizes: training and test samples of each client.

    Raises:
        ConfigError: the model fails on them; names the clients.
    """
    norms = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    last = [[size % batch_size == 1 % batch_size and size > 0 for size in of] for of in sizes]
    only = [client for client, size in enumerate(sizes[0]) if size == 1]
    left = [client for client, is_one in enumerate(last[0]) if is_one and client not in only]
    tested = [client for client, is_one in enumerate(last[1]) if is_one]
    left = [] if norms and batch_size > 1 else left
    if only or left:
        try:
            _try(module, train, count=1)
        except ConfigError as error:
            what = "batch normalisation needs two" if norms else str(error)
            if batch_size == 1:
                raise ConfigError(f"trainer.batch_size=1: {what + ' samples' if norms else what}") from None
            if only:
                raise ConfigError(
                    f"partition: client {_named(only)} has one training sample, and {what}; raise "
                    "partition.volume.floor or partition.train_per_client, or take fewer clients"
                ) from None
            raise ConfigError(
                f"trainer.batch_size={batch_size} leaves client {_named(left)} one training sample for the last batch; {what}"
            ) from None
    if tested:
        try:
            _try(module, test, test, count=1, trains=False)
        except ConfigError as error:
            raise ConfigError(
                f"client {_named(tested)} has one test sample in a batch (trainer.batch_size={batch_size}); {error}"
            ) from None


def _named(clients: Sequence[int]) -> str:
    return ", ".join(map(str, clients[:8])) + (f" and {len(clients) - 8} more" if len(clients) > 8 else "")


def _step(module: LightningModule, step: str, pool: Samples, count: int = TRIAL_SAMPLES) -> Any:
    count = min(count, pool.num_samples)
    batch = next(iter(pool.batches(torch.arange(count), count)))
    try:
        with torch.set_grad_enabled(step == "training_step"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a module that logs has no trainer yet, and Lightning says so
            return getattr(module, step)(batch, 0)
    except Exception as error:
        raise ConfigError(
            f"model: {type(module).__name__} does not fit samples of {_shape_of(batch)} "
            f"(data, model): {step} raised {one_line(error)}"
        ) from error


def _check_loss(module: LightningModule, output: Any) -> None:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if output is not None and not (isinstance(loss, Tensor) and loss.numel() == 1):
        what = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else type(output).__name__
        raise ConfigError(
            f"model: training_step of {type(module).__name__} returned {what}; "
            "return the loss, {'loss': …}, or None to skip a batch"
        )
    if isinstance(loss, Tensor) and not loss.requires_grad:
        raise ConfigError(
            f"model: the loss that training_step of {type(module).__name__} returned has no gradient: it is detached, or "
            "of frozen layers alone"
        )


def _check_gradient(module: LightningModule, output: Any) -> None:
    """One sample may have a loss and no gradient, or a loss that is no number."""
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if loss is None:
        return
    name = type(module).__name__
    if not torch.isfinite(loss).all():
        raise ConfigError(f"model: the loss that training_step of {name} returned is {float(loss.detach())}")
    try:
        loss.backward()
    except Exception as error:
        raise ConfigError(
            f"model: the loss that training_step of {name} returned has no gradient: {one_line(error)}"
        ) from error
    finally:
        module.zero_grad()


def _shape_of(batch: Any) -> str:
    """What one sample of the batch is: its input's shape, or all of its parts where they are not a plain pair."""
    if isinstance(batch, list | tuple) and batch and isinstance(batch[0], Tensor):
        return "shape " + ("×".join(str(side) for side in batch[0].shape[1:]) or "() (numbers)")
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{name}: {_shape_of([value])}" for name, value in batch.items()) + "}"
    return type(batch).__name__


def _adapted(model: Any) -> LightningModule:
    """Give the copy a subclass of its own class: the base class, the signatures we call, the counts, what needs no Trainer.

    The class keeps its name, and its methods win over everything added. LightningModules inside it get the same.
    """
    for part in lightning_parts(model):
        _add(part, {})
    own = type(model)
    _add(
        model, {step: without_index(getattr(own, step)) for step in STEPS if not takes_batch_index(getattr(own, step))}
    )
    assert isinstance(model, LightningModule)
    return model


def _add(module: Any, methods: Mapping[str, Any]) -> None:
    own = type(module)
    bases = (own,) if isinstance(module, LightningModule) else (own, LightningModule)
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    without_trainer = {name: value for name, value in WITHOUT_TRAINER.items() if not overridden(module, name)}
    module.__class__ = type(own.__name__, bases, names | without_trainer | counting(own) | dict(methods))


def _clip_gradients(
    self: Any,
    optimizer: Any,
    gradient_clip_val: float | None = None,
    gradient_clip_algorithm: str | None = None,
) -> None:
    """Lightning's helper, as it clips under a Trainer that was given nothing to clip by."""
    if gradient_clip_val is None:
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if gradient_clip_algorithm in (None, "norm"):
        nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
    elif gradient_clip_algorithm == "value":
        nn.utils.clip_grad_value_(parameters, gradient_clip_val)
    else:
        raise ValueError(f"gradient_clip_algorithm={gradient_clip_algorithm!r}; 'norm' or 'value'")


def _print(self: Any, *values: Any, **options: Any) -> None:
    """On the first rank, and not in a trial."""
    if self.fabric is not None:
        self.fabric.print(*values, **options)


WITHOUT_TRAINER: Mapping[str, Any] = {
    "logger": property(lambda self: None),
    "loggers": property(lambda self: []),
    "clip_gradients": _clip_gradients,
    "print": _print,
}
"""What Lightning asks its Trainer or Fabric for; a client has no logger of its own."""
