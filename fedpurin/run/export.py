"""Where each entry of a module's `state_dict` lies in a client's saved state, and the way back to a `state_dict`.

Needs no configuration and builds no model: a checkpoint describes its own. Does not own: checkpoints (checkpoint.py), the
command and its files (cli/export.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedpurin.config import ConfigError
from fedpurin.local.trainer import LocalTrainer
from fedpurin.run.checkpoint import Checkpoint

Entry = dict[str, Any]
"""{"in": "vector", "at": elements} or {"in": "buffers", "at": bytes} or {"in": "fixed"}; with "shape" and "dtype"."""


def describe_module(trainer: LocalTrainer) -> tuple[dict[str, Entry], dict[str, Tensor]]:
    """Where every entry of the live module's `state_dict` is found in a client's tensors, and what is in none.

    Tied weights have several names and one place. What no client owns (frozen weights) is returned as it is.
    """
    vector, entries, fixed = trainer.vector, {}, {}
    size = vector.element_size()
    starts, at = {}, 0
    for name, buffer in trainer.module.named_buffers():
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
