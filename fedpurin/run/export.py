"""Where each entry of a module's `state_dict` lies in a client's saved state, the way back to a `state_dict`, and what
else somebody needs who uses the model elsewhere: the arguments of its class, how inputs are made, its test samples.

Needs no configuration and builds no model: a checkpoint describes its own. Does not own: checkpoints (checkpoint.py), the
command and its files (cli/export.py).
"""

from __future__ import annotations

import inspect
import io
import math
import warnings
from collections.abc import Collection, Mapping
from contextlib import redirect_stdout
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from fedpurin.config import ConfigError
from fedpurin.data import LabelledData, Pool
from fedpurin.local.trainer import LocalTrainer
from fedpurin.run.checkpoint import Checkpoint

BACKBONES = "lightning_modules.backbones."
"""Networks that our own modules make of a mapping; a checkpoint that named any other would run somebody's code."""

Entry = dict[str, Any]
"""{"in": "vector", "at": elements} or {"in": "buffers", "at": bytes} or {"in": "fixed"}; with "shape" and "dtype"."""


def describe_module(trainer: LocalTrainer) -> tuple[dict[str, Entry], dict[str, Tensor]]:
    """Where every entry of the live module's `state_dict` is found in a client's tensors, and what is in none.

    Tied weights have several names and one place. What no client owns (frozen weights) is returned as it is.
    """
    vector, entries, fixed = trainer.vector, {}, {}
    size = vector.element_size()
    starts, at = {}, 0
    for name, buffer in trainer.buffers().items():
        starts[name] = at
        at += buffer.numel() * buffer.element_size()
    for key, value in trainer.module.state_dict(keep_vars=True).items():
        offset = (value.data_ptr() - vector.data_ptr()) // size
        entry: Entry = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        if key in starts:
            entry |= {"in": "buffers", "at": starts[key]}
        elif value.device == vector.device and 0 <= offset < vector.numel():
            entry |= {"in": "vector", "at": offset}
        else:
            entry |= {"in": "fixed"}
            fixed[f"module/{key}"] = value.detach()
        entries[key] = entry
    return entries, fixed


def describe_use(
    module: LightningModule, own: type, own_keys: Collection[str], arguments: Mapping[str, Any], data: LabelledData
) -> dict[str, Any]:
    """What a module and its data need elsewhere, as JSON takes it.

    Args:
        own: the module's class before the method mixed another into it.
        own_keys: names of its `state_dict` then.
        arguments: what the class was called with, where its `save_hyperparameters` does not tell.
    """
    is_its_class = str(arguments.get("_target_", "")).endswith(f".{own.__name__}")
    given = dict(module.hparams) or (
        {key: value for key, value in arguments.items() if key != "_target_"} if is_its_class else {}
    )
    stored = {key: value for key, value in given.items() if _is_plain(value)}
    parameters = inspect.signature(own).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    needed = [p.name for p in named if p.default is p.empty or not given]  # without a record any may have been given
    whole = getattr(module, "_hparams_name", None) if module.hparams else None  # save_hyperparameters(options)
    found = {} if given else _size_that_fits(module, own, own_keys)
    stored |= found
    samples = data.train
    mean, std = (samples.mean, samples.std) if isinstance(samples, Pool) else (None, None)
    is_image = isinstance(samples, Pool) and samples.inputs.dtype == torch.uint8
    return {
        "class": f"{own.__module__}.{own.__qualname__}",
        "hyper_parameters": stored,
        "hparams_name": whole,
        "found": found,
        "not_stored": sorted((given.keys() | set(needed) - {whole}) - stored.keys()),
        "added_keys": sorted(module.state_dict().keys() - set(own_keys)),
        "normalisation": None if mean is None or std is None else {"mean": mean.tolist(), "std": std.tolist()},
        "image_shape": list(samples.sample_shape) if is_image else None,
        "coding": list(data.coding),
    }


def _size_that_fits(module: LightningModule, own: type, own_keys: Collection[str]) -> dict[str, int]:
    """The one whole number that, in place of a default of the class, makes weights of the module's shapes.

    Lightning's record of the arguments is empty without `save_hyperparameters`, and also where a class calls its
    parent's `__init__` by name. Nothing is found where the defaults fit already, or no choice or several do.
    """
    wanted = {key: value.shape for key, value in module.state_dict().items() if key in own_keys}
    defaults = {name: p.default for name, p in inspect.signature(own).parameters.items() if type(p.default) is int}
    shapes = _shapes(own, {}) if defaults else None
    if shapes is None or shapes.keys() != wanted.keys():
        return {}
    pairs = [(a, b) for key in wanted for a, b in zip(shapes[key], wanted[key], strict=False) if a != b]
    fitting = [
        {name: size} for name in defaults for size in {b for _, b in pairs} if _shapes(own, {name: size}) == wanted
    ]
    return fitting[0] if len(fitting) == 1 else {}


def _shapes(own: type, arguments: Mapping[str, int]) -> dict[str, torch.Size] | None:
    """Shapes of the weights that the class makes, without memory or draws; None where it cannot be called so."""
    try:
        with (
            torch.device("meta"),
            isolate_rng(include_cuda=False),
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(io.StringIO()),
        ):
            return {key: value.shape for key, value in own(**arguments).state_dict().items()}
    except Exception:  # somebody else's class, which the run does not need
        return None


def _is_plain(value: Any) -> bool:
    """Whether it is the same after JSON and names no class but a backbone of ours."""
    if isinstance(value, Mapping):
        is_ours = str(value.get("_target_", BACKBONES)).startswith(BACKBONES)
        return is_ours and all(isinstance(key, str) and _is_plain(part) for key, part in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, str | bool | int | float)


def personal_use(checkpoint: Checkpoint, client: int) -> dict[str, Any]:
    """What `describe_use` said, with the client's test samples and what the exported model was measured at on them.

    A checkpoint of an earlier version says less.
    """
    state = checkpoint.read_state()
    use: dict[str, Any] = dict(state.get("use") or {})
    tensors = checkpoint.read_tensors(lambda key: key == f"client/{client}/test_indices")
    use["test_indices"] = [index for tensor in tensors.values() for index in tensor.tolist()]
    suffix = f"/{use.get('measured_as')}"
    measured = state["metrics"].get(str(client), {})
    use["measured"] = {name.removesuffix(suffix): value for name, value in measured.items() if name.endswith(suffix)}
    return use


def personal_model(checkpoint: Checkpoint, client: int) -> dict[str, Tensor]:
    """The `state_dict` of one client's model after the last merge.

    Raises:
        ConfigError: there is no such client.
    """
    prefix = f"client/{client}/"
    entries: Mapping[str, Entry] = checkpoint.read_state()["module"]
    tensors = checkpoint.read_tensors(lambda key: key.startswith((prefix, "module/")))
    if f"{prefix}vector" not in tensors:
        num_clients = len(checkpoint.read_state()["metrics"])
        raise ConfigError(f"--client {client}: the run has clients 0 to {num_clients - 1}")
    model = {}
    for key, entry in entries.items():
        shape, count = entry["shape"], math.prod(entry["shape"])
        if entry["in"] == "vector":
            value = tensors[f"{prefix}vector"][entry["at"] :][:count]
        elif entry["in"] == "buffers":
            dtype: torch.dtype = getattr(torch, entry["dtype"])
            raw = tensors[f"{prefix}buffers"][entry["at"] :][: count * dtype.itemsize]
            value = raw.clone().view(dtype)
        else:
            value = tensors[f"module/{key}"]
        model[key] = value.reshape(shape).clone()
    return model
