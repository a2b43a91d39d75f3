"""What a run's data were, in a few lines that a checkpoint holds, and how other data differ from them.

Owns: the digest of the pools and of who holds which sample, and the refusal of others. Does not own: reading data
(`data/`), when the two are compared (checkpointer.py). A digest does not depend on the machine or the number of ranks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedpurin.config import ConfigError
from fedpurin.data import LabelledData, Partition, Pool, Samples

log = logging.getLogger(__name__)

SAMPLED_BYTES = 256 * 2**20
"""Inputs are read whole up to here; of a larger pool, samples at equal distances that come to as much."""


def describe_data(data: LabelledData, parts: Partition) -> dict[str, Any]:
    """Sizes, classes and digests of both pools and of the partition, as JSON takes them."""
    return {
        "classes": list(data.class_names),
        "train": _describe_pool(data.train),
        "test": _describe_pool(data.test),
        "partition": _digest([*parts.train, *parts.test]),
    }


def differences(began: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, the telling things first; a partition is named only where the samples are the same."""
    found = []
    if began["classes"] != now["classes"]:
        found.append(f"the classes are {_shorten(now['classes'])} (they were {_shorten(began['classes'])})")
    for split, name in (("train", "training"), ("test", "test")):
        was, is_ = began[split], now[split]
        if was["samples"] != is_["samples"]:
            found.append(f"there are {is_['samples']} {name} samples (there were {was['samples']})")
        elif was["shape"] != is_["shape"] or was["dtype"] != is_["dtype"]:
            found.append(
                f"the {name} samples are {is_['shape']} {is_['dtype']} (they were {was['shape']} {was['dtype']})"
            )
        else:
            for part in ("labels", "inputs"):
                if was[part] != is_[part]:
                    found.append(f"the {name} {part} are not what they were")
    if not found and began["partition"] != now["partition"]:
        found.append("clients hold other samples than they did (the partition has changed)")
    return found


def check_data(run_dir: Path, began: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """See that a run goes on with the data it began with. A checkpoint of an earlier version does not tell.

    Raises:
        ConfigError: names what is different.
    """
    if not began:
        log.warning("the checkpoint is of an earlier version and does not tell whether the data are the same")
    elif found := differences(began, now):
        raise ConfigError(
            f"{run_dir}: the data are not those that the run began with: {'; '.join(found)}. Continue it on the data it "
            "began with, or start a new run in another folder"
        )


def _describe_pool(pool: Samples) -> dict[str, Any]:
    if not isinstance(pool, Pool):
        return {
            "samples": pool.num_samples,
            "shape": list(pool.sample_shape),
            "dtype": pool.dtype_name,
            "labels": _digest([] if pool.labels is None else [pool.labels]),
            "inputs": _digest(pool.tensors()),
        }
    sample_bytes = max(1, pool.inputs[0].numel() * pool.inputs.element_size())
    distance = -(-pool.num_samples * sample_bytes // SAMPLED_BYTES)
    return {
        "samples": pool.num_samples,
        "shape": list(pool.sample_shape),
        "dtype": pool.dtype_name,
        "labels": _digest([pool.labels]),
        "inputs": _digest([pool.inputs[:: max(1, distance)]]),
    }


def _digest(arrays: Iterable[Any]) -> str:
    """SHA-256 of the shapes and bytes, little-endian on every machine that torch runs on."""
    digest = hashlib.sha256()
    for array in arrays:
        tensor = array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{list(plain.shape)} {plain.dtype};".encode())
        digest.update(plain.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _shorten(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
