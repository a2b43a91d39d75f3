"""Partitions that are given, not drawn: clients named in the data, and indices that another tool wrote.

Owns: `partition=natural` and `partition=file` and their refusals. Does not own: reading the data set (sources.py).
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpurin.config import ConfigError, PartitionConfig
from fedpurin.data.dataset import LabelledData

Indices = tuple[NDArray[np.int64], ...]


def owned(data: LabelledData, clients: Sequence[Any]) -> LabelledData:
    """The data with whose each training and test sample is.

    Raises:
        ConfigError: not one owner a sample.
    """
    both = [np.asarray(part) for part in clients]
    for split, names, pool in zip(("train", "test"), both, (data.train, data.test), strict=True):
        if names.shape != (pool.num_samples,):
            raise ConfigError(f"clients: {list(names.shape)} names for {pool.num_samples} {split} samples; one each")
    if not all(names.dtype.kind in "iu" for names in both):
        both = [names.astype(str) for names in both]
    return replace(data, clients=(both[0], both[1]))


def natural(config: PartitionConfig, data: LabelledData) -> tuple[Indices, Indices]:
    """Every sample to the client that the data name for it; clients in the order of their names, 10 after 9."""
    if data.clients is None:
        raise ConfigError(
            f"partition=natural: data={data.name} does not say whose a sample is; data=arrays takes an array client, "
            "data=table and huggingface a column data.client, data=image_folder folders "
            "<root>/<client>/{train,test}/<class>/, data=leaf users, and fedpurin.simulate an argument clients"
        )
    train, test = data.clients
    names = sorted(np.unique(np.concatenate([train, test])), key=lambda name: _order(str(name)))
    _check_count(config, len(names))
    both = tuple(np.flatnonzero(train == name) for name in names), tuple(np.flatnonzero(test == name) for name in names)
    for split, parts in zip(("training", "test"), both, strict=True):
        if empty := [str(name) for name, part in zip(names, parts, strict=True) if not len(part)]:
            raise ConfigError(f"partition=natural: no {split} sample for client {', '.join(empty[:5])}; each needs one")
    return both


def from_file(config: PartitionConfig, data: LabelledData) -> tuple[Indices, Indices]:
    """`partition.file`: JSON {"train": [[indices of client 0], …], "test": [...]}, or CSV with split,client,index."""
    if config.file is None:
        raise ConfigError("partition.file=null: partition=file needs a .json or .csv file of indices")
    path = Path(config.file).expanduser()
    try:
        both = _read_csv(path) if path.suffix == ".csv" else _read_json(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"partition.file={path} is no partition ({type(error).__name__}: {error}); JSON needs train and test, each a "
            "list of indices a client, and CSV the columns split (train or test), client and index"
        ) from None
    if len(both[0]) != len(both[1]):
        raise ConfigError(f"partition.file={path}: {len(both[0])} clients train and {len(both[1])} are tested")
    _check_count(config, len(both[0]))
    for split, parts, pool in (("train", both[0], data.train), ("test", both[1], data.test)):
        for client, part in enumerate(parts):
            if not len(part):
                raise ConfigError(f"partition.file={path}: client {client} has no {split} sample; each needs one")
            if part[0] < 0 or part[-1] >= pool.num_samples or len(np.unique(part)) < len(part):
                raise ConfigError(
                    f"partition.file={path}: client {client}'s {split} indices must be different numbers from 0 to "
                    f"{pool.num_samples - 1}"
                )
        if config.disjoint:
            check_disjoint(f"partition.file={path}", parts, split, pool.num_samples)
    return both


def check_disjoint(what: str, parts: Sequence[NDArray[Any]], split: str, num_samples: int) -> None:
    """See that no sample belongs to two clients, which `partition.disjoint` promises.

    Raises:
        ConfigError: names a sample that does.
    """
    uses = np.bincount(np.concatenate(parts), minlength=num_samples)
    if uses.max() > 1:
        raise ConfigError(
            f"{what}: {split} sample {int(uses.argmax())} belongs to {uses.max()} clients; set "
            "partition.disjoint=false if that is meant"
        )


def _check_count(config: PartitionConfig, count: int) -> None:
    if config.num_clients != count:
        raise ConfigError(f"partition.num_clients={config.num_clients}: there are {count} clients; set it to {count}")


def _sorted(indices: list[Any]) -> NDArray[np.int64]:
    if not all(isinstance(index, int) for index in indices):
        raise ValueError("an index is no whole number")
    return np.sort(np.array(indices, dtype=np.int64))


def _read_json(path: Path) -> tuple[Indices, Indices]:
    content = json.loads(path.read_text(encoding="utf-8"))
    lists = [content[split] for split in ("train", "test")]
    if all(isinstance(part, dict) for part in lists):
        if set(lists[0]) != set(lists[1]):
            raise ValueError("train and test name different clients")
        lists = [[part[client] for client in sorted(lists[0], key=_order)] for part in lists]
    train, test = (tuple(_sorted(client) for client in part) for part in lists)
    return train, test


def _read_csv(path: Path) -> tuple[Indices, Indices]:
    held: dict[str, dict[str, list[int]]] = {"train": defaultdict(list), "test": defaultdict(list)}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            held[row["split"]][row["client"]].append(int(row["index"]))
    names = sorted(set(held["train"]) | set(held["test"]), key=_order)
    train, test = (tuple(_sorted(held[split][name]) for name in names) for split in ("train", "test"))
    return train, test


def _order(name: str) -> tuple[bool, int, str]:
    """Whole numbers by their value, so that client 10 comes after client 9, then other names by the alphabet."""
    is_number = name.removeprefix("-").isdecimal()
    return not is_number, int(name) if is_number else 0, name
