"""Data and partitions from a function of the user's: `data._target_` and `partition._target_`.

Owns: what the two functions are offered, what they may return, and the lines that say what does not fit. Does not own:
finding and calling them (fedpurin/own.py), the data sets and rules that come with us (sources.py, partitions.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from fedpurin.config import ConfigError, DataConfig, PartitionConfig, name_of
from fedpurin.data.dataset import LabelledData
from fedpurin.data.from_torch import from_datasets
from fedpurin.data.natural import check_disjoint
from fedpurin.data.pool import Pool
from fedpurin.own import call_own
from fedpurin.seeding import numpy_generator

Indices = tuple[NDArray[np.int64], ...]


def own_data(config: DataConfig, seed: int) -> LabelledData:
    """What `data._target_` makes: `LabelledData`, or (train, test), each a torch data set, a list of samples or (inputs,
    labels), or these two and a collate function.

    Offered: `seed`, `generator` (NumPy's, for this seed), and the section's options (`root`, `download`, ...). Of two
    data sets `normalise`, `flip`, `rotation` and `crop_padding` are applied here, as to any other data.

    Raises:
        ConfigError: there is no such function, or it returned something else.
    """
    offered = {"seed": seed, "generator": numpy_generator(seed, "data/custom"), **_options(config)}
    made = call_own("data", config.own, offered)
    if isinstance(made, LabelledData):
        return made
    what = f"data._target_={name_of(config.own['_target_'])}"
    if not isinstance(made, Sequence) or len(made) not in (2, 3) or not all(map(callable, made[2:])):
        raise ConfigError(
            f"{what} returned {_describe(made)}; LabelledData or (train, test) is possible, each a torch data set, a list of "
            "samples or (inputs, labels), and a collate function as a third"
        )
    train, test = (_dataset(split, f"{what}: {name}") for name, split in zip(("train", "test"), made[:2], strict=True))
    return from_datasets(
        train, test, name=config.name, collate=made[2] if len(made) > 2 else None, label=config.label,
        normalise=config.normalise, flip=config.flip, rotation=config.rotation, crop_padding=config.crop_padding,
    )  # fmt: skip


def own_partition(config: PartitionConfig, data: LabelledData, seed: int) -> tuple[Indices, Indices]:
    """What `partition._target_` deals: for each client the indices of its samples, of either pool.

    It is called once for the training pool and once for the test pool, each time with a generator in the same state:
    what it draws before it looks at the samples (a client's class proportions) is the same in both. Offered: `labels`
    [n] (or targets [n, ...], or None), `num_clients`, `generator`, `num_classes`, `split` ("train" or "test"), `owners`
    (whose each sample is, if the data say so), `inputs`, `seed`, and the section's options.

    Raises:
        ConfigError: there is no such function, or what it returned is no partition.
    """
    parts = []
    for index, (split, pool) in enumerate((("train", data.train), ("test", data.test))):
        offered = {
            "labels": None if pool.labels is None else pool.labels.cpu().numpy(),
            "num_classes": data.num_classes,
            "generator": numpy_generator(seed, "partition/custom"),
            "split": split,
            "owners": None if data.clients is None else data.clients[index],
            "inputs": pool.inputs if isinstance(pool, Pool) else pool,
            **_options(config),
            "seed": seed,
        }
        dealt = call_own("partition", config.own, offered)
        parts.append(_checked(config, dealt, split, pool.num_samples))
    return parts[0], parts[1]


def _options(config: DataConfig | PartitionConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config) if field.name not in ("own", "name")}


def _dataset(split: Any, what: str) -> Any:
    if not isinstance(split, tuple | list):
        if hasattr(split, "__getitem__") and hasattr(split, "__len__") and not hasattr(split, "shape"):
            return split
    elif len(split) == 2 and all(hasattr(part, "shape") for part in split):
        inputs, labels = (torch.as_tensor(part) for part in split)
        if len(inputs) == len(labels):
            return TensorDataset(inputs, labels)
    elif isinstance(split, list) and all(isinstance(sample, tuple | list | Mapping) for sample in split):
        return split
    raise ConfigError(
        f"{what} is {_describe(split)}; a torch data set, a list of samples, or (inputs [n, ...], labels [n]) is possible"
    )


def _checked(config: PartitionConfig, dealt: Any, split: str, num_samples: int) -> Indices:
    what, clients = f"partition._target_={name_of(config.own['_target_'])}", config.num_clients
    try:
        parts = tuple(np.asarray(part) for part in dealt)
    except (TypeError, ValueError):
        raise ConfigError(f"{what} returned {_describe(dealt)}; it must be a list of indices a client") from None
    if len(parts) != clients:
        raise ConfigError(f"{what} dealt to {len(parts)} clients; partition.num_clients={clients}")
    for client, part in enumerate(parts):
        if not part.size:
            raise ConfigError(f"{what}: client {client} has no {split} sample; each needs one")
        if part.ndim != 1 or part.dtype.kind not in "iu":
            raise ConfigError(f"{what}: client {client} has {part.dtype} of {part.ndim} dims; indices [n] are possible")
        if part.min() < 0 or part.max() >= num_samples or len(np.unique(part)) < len(part):
            raise ConfigError(
                f"{what}: client {client}'s {split} indices must be different numbers from 0 to {num_samples - 1}"
            )
    if config.disjoint:
        check_disjoint(what, parts, split, num_samples)
    return tuple(np.sort(part.astype(np.int64)) for part in parts)


def _describe(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, Sequence) and not isinstance(value, str) else ""
    return f"a {type(value).__name__}{size}"
