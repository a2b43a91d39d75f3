"""From columns of the user's own numbers to a data set: the split, the targets, and whose each sample is.

Owns: what is held out where there is no test set, and labels as classes or numbers. Does not own: the files (arrays.py,
tables.py).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.config import ConfigError, DataConfig
from fedpurin.data.dataset import LabelledData, labelled_data
from fedpurin.data.images import conform
from fedpurin.seeding import numpy_generator

log = logging.getLogger(__name__)
UNSCALED = 3.0
"""Root mean square of inputs above which nobody can have scaled them."""

Columns = dict[str, NDArray[Any]]


def root_of(config: DataConfig, wanted: str) -> Path:
    """`data.root`, which is there.

    Raises:
        ConfigError: it is not.
    """
    if config.root is None:
        raise ConfigError(f"data.root=null: data={config.name} needs {wanted}")
    path = Path(config.root).expanduser()
    if not path.exists():
        raise ConfigError(f"data.root={config.root}: there is no such file or folder; give {wanted}")
    return path


def finite(what: str, numbers: NDArray[Any]) -> NDArray[np.float32]:
    """These numbers as what models compute with.

    Raises:
        ConfigError: some are not finite, or too large for float32.
    """
    with np.errstate(over="ignore"):
        single = numbers.astype(np.float32)
    if not np.isfinite(single).all():
        raise ConfigError(f"{what} holds numbers that are not finite in float32; fill or drop them")
    return single


def hold_out(config: DataConfig, targets: NDArray[Any], clients: NDArray[Any] | None, seed: int) -> NDArray[np.bool_]:
    """Which samples test: a share of each client's, of each class where samples belong to nobody, or else of all."""
    if clients is None and config.target == "numbers":
        clients = np.zeros(len(targets))
    elif clients is None:
        _check_one_each(config, targets)
    groups = np.unique(np.asarray(targets if clients is None else clients), return_inverse=True)[1]
    generator = numpy_generator(seed, "data/split")
    held_out = np.zeros(len(groups), dtype=bool)
    for group in range(groups.max(initial=-1) + 1):
        members = generator.permutation(np.flatnonzero(groups == group))
        wanted = max(1, round(config.test_share * len(members)))
        held_out[members[: min(wanted, len(members) - 1)]] = True  # one of each group is left to train on
    return held_out


def targets_of(config: DataConfig, columns: Sequence[NDArray[Any]]) -> tuple[list[Tensor], list[str]]:
    """Targets of both splits as tensors, and the names of the classes: any labels, in sorted order.

    Raises:
        ConfigError: labels that are no classes, or numbers that are none.
    """
    if config.target == "numbers":
        try:
            numbers = [column.astype(np.float32) for column in columns]
        except ValueError as error:
            raise ConfigError(f"data.target=numbers: the targets of data={config.name} are none ({error})") from None
        if not all(np.isfinite(column).all() for column in numbers):
            raise ConfigError(f"data.target=numbers: some targets of data={config.name} are not finite")
        return [torch.from_numpy(column) for column in numbers], []
    for column in columns:
        _check_one_each(config, column)
    if any(column.dtype.kind == "f" and (column != column.round()).any() for column in columns):
        raise ConfigError(
            f"data={config.name}: labels are fractions; set data.target=numbers for a regression, or give classes"
        )
    joined = np.concatenate([column.astype(np.int64) if column.dtype.kind == "f" else column for column in columns])
    names, codes = np.unique(joined, return_inverse=True)
    parts = [torch.from_numpy(part) for part in np.split(codes, [len(columns[0])])]
    return parts, [str(name) for name in names]


def _check_one_each(config: DataConfig, labels: NDArray[Any]) -> None:
    if labels.ndim != 1:
        raise ConfigError(
            f"data={config.name}: labels have the shape {list(labels.shape)}; classes are one a sample "
            "(data.target=numbers takes vectors)"
        )


def owners_of(clients: Sequence[NDArray[Any] | None]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Names of both splits' owners; None where one of them has none."""
    train, test = clients
    return None if train is None or test is None else (train.astype(str), test.astype(str))


def assemble(
    config: DataConfig,
    inputs: Sequence[Tensor],
    targets: Sequence[NDArray[Any]],
    clients: Sequence[NDArray[Any] | None],
    padding: int | None = None,
    num_tokens: int | None = None,
) -> LabelledData:
    """Pairs (x, y) of both splits, training first; `padding` and `num_tokens` are those of `LabelledData`."""
    if inputs[0].dtype == torch.uint8:
        inputs = [conform(images, config) for images in inputs]
    elif config.image_size or config.channels:
        raise ConfigError(f"data.image_size and data.channels need uint8 images; data={config.name} has none")
    elif inputs[0].is_floating_point() and (size := float(inputs[0].square().mean().sqrt())) > UNSCALED:
        log.warning(
            "data=%s: x is used as it is, though its root mean square is %.3g and not near 1; scale it, or save images "
            "as uint8, which are standardised",
            config.name,
            size,
        )
    (train, test), names = targets_of(config, targets)
    return labelled_data(
        config.name, (inputs[0], train), (inputs[1], test), names,
        normalise=config.normalise, flip=config.flip, rotation=config.rotation, crop_padding=config.crop_padding,
        clients=owners_of(clients), padding=padding, num_tokens=num_tokens,
    )  # fmt: skip
