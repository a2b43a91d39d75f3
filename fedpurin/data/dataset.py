"""What a run knows of its data: a training and a test pool, and what a model must know to fit them.

Owns: `LabelledData`, the normalisation statistics, and the way from any torch data set to it. Does not own:
files (sources.py, folder.py) and batches (pool.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.config import ConfigError
from fedpurin.data.pool import Pool


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Both pools on the CPU; `Pool.to` moves one. Class c is called `class_names[c]`."""

    name: str
    train: Pool
    test: Pool
    class_names: tuple[str, ...]
    clients: tuple[NDArray[Any], NDArray[Any]] | None = None
    """Whose each training and test sample is, by name; None where the data do not say."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """First dim of a sample: colour channels of an image, features of a vector."""
        return self.train.sample_shape[0] if self.train.sample_shape else 1

    @property
    def image_size(self) -> int | None:
        """Side in pixels of square images, None for any other kind of sample."""
        shape = self.train.sample_shape
        return shape[1] if len(shape) == 3 and shape[1] == shape[2] else None


def labelled_data(
    name: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    class_names: Sequence[str],
    *,
    normalise: str = "standardise",
    flip: bool = False,
    rotation: float = 0.0,
    crop_padding: int = 0,
    clients: tuple[NDArray[Any], NDArray[Any]] | None = None,
) -> LabelledData:
    """Put (inputs [n, ...], labels [n]) of both splits together; uint8 images are scaled as `normalise` says.

    Raises:
        ConfigError: an empty split, labels outside 0 … len(class_names) − 1, or samples of different shapes.
    """
    for split, (inputs, labels) in (("training", train), ("test", test)):
        if len(inputs) == 0 or len(inputs) != len(labels):
            raise ConfigError(
                f"data={name}: {len(inputs)} {split} samples with {len(labels)} labels; both need as many, at least one"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(class_names):
            raise ConfigError(
                f"data={name}: {split} labels run from {low} to {high}; {len(class_names)} classes have 0 to "
                f"{len(class_names) - 1}"
            )
    if train[0].shape[1:] != test[0].shape[1:] or train[0].dtype != test[0].dtype:
        raise ConfigError(
            f"data={name}: training samples are {list(train[0].shape[1:])} {train[0].dtype}, test samples "
            f"{list(test[0].shape[1:])} {test[0].dtype}; they must agree"
        )
    mean, std = _scaling(train[0], normalise) if train[0].dtype == torch.uint8 else (None, None)
    try:
        pool = Pool(*train, mean=mean, std=std, flip=flip, rotation=rotation, crop_padding=crop_padding)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    plain = replace(pool, inputs=test[0], labels=test[1], flip=False, rotation=0.0, crop_padding=0)
    return LabelledData(name, pool, plain, tuple(class_names), clients)


def _scaling(images: Tensor, normalise: str) -> tuple[Tensor | None, Tensor | None]:
    """What is subtracted from each channel's pixel values and what they are divided by, [C] each."""
    if normalise == "standardise":
        return channel_statistics(images)
    if normalise == "unit":
        return torch.zeros(images.shape[1]), torch.full((images.shape[1],), 255.0)
    return None, None


def channel_statistics(images: UInt8[Tensor, "n c h w"]) -> tuple[Float32[Tensor, " c"], Float32[Tensor, " c"]]:
    """Mean and standard deviation of each channel in pixel values, from exact counts; a constant channel gets 1."""
    values = torch.arange(256, dtype=torch.float64)
    means, deviations = [], []
    for channel in images.unbind(1):
        parts = [torch.bincount(part.flatten(), minlength=256) for part in torch.split(channel, 4096)]
        shares = torch.stack(parts).sum(0).double() / channel.numel()
        means.append(mean := shares @ values)
        deviations.append((shares @ (values - mean) ** 2).sqrt())
    deviation = torch.stack(deviations)
    deviation[deviation == 0] = 1
    return torch.stack(means).float(), deviation.float()


def from_datasets(
    train: Any, test: Any, *, name: str = "custom", class_names: Sequence[str] | None = None, **options: Any
) -> LabelledData:
    """Turn two torch data sets of (x, y) pairs into pools. Every sample is read once, now.

    x is a tensor, an array or a PIL image, the same shape throughout: uint8 samples are images [C, H, W] or
    [H, W] and are normalised; floating samples of any
    shape, and other integers (tokens), are used as they are. A random transform inside the
    data set is thus drawn once. y is a class number, from 0. `options` are those of `labelled_data`.

    Raises:
        ConfigError: an empty data set, samples of different shapes, labels that are not class numbers.
    """
    splits = {split: _stack(dataset, split) for split, dataset in (("training", train), ("test", test))}
    if class_names is None:
        highest = max(int(labels.max()) for _, labels in splits.values())
        _check_dense([labels for _, labels in splits.values()], highest)
        class_names = [str(number) for number in range(highest + 1)]
    return labelled_data(name, splits["training"], splits["test"], class_names, **options)


def _check_dense(labels: Sequence[Tensor], highest: int) -> None:
    """Ids such as 3, 70 and 500 would make a head of 501 outputs; a class or two without samples is only told."""
    present = torch.unique(torch.cat(list(labels))).tolist()
    if present[0] < 0 or len(present) == highest + 1:
        return
    first = ", ".join(map(str, present[:5])) + (", …" if len(present) > 5 else "")
    if 2 * len(present) < highest + 1:
        raise ConfigError(
            f"the labels are {len(present)} different numbers up to {highest} ({first}); number the classes from 0 to "
            f"{len(present) - 1}"
        )
    warnings.warn(f"{highest + 1 - len(present)} of the classes 0 to {highest} have no sample ({first})", stacklevel=3)


def _stack(dataset: Any, split: str) -> tuple[Tensor, Int64[Tensor, " n"]]:
    """Every sample of a data set as two tensors."""
    if len(dataset) == 0:
        raise ConfigError(f"the {split} data set is empty; it needs at least one (x, y) pair")
    if isinstance(dataset, torch.utils.data.TensorDataset) and len(dataset.tensors) == 2:
        inputs, labels = dataset.tensors  # no loop over samples that are tensors already
    else:
        pairs = [_as_pair(dataset[index], split, index) for index in range(len(dataset))]
        shapes = {(tuple(x.shape), x.dtype) for x, _ in pairs}
        if len(shapes) > 1:
            some = ", ".join(f"{list(shape)} {dtype}" for shape, dtype in sorted(shapes, key=str)[:3])
            raise ConfigError(
                f"the {split} data set's samples differ ({some}); resize and convert them to one shape and type"
            )
        inputs = torch.stack([x for x, _ in pairs])
        labels = torch.tensor([y for _, y in pairs])
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
        raise ConfigError(f"the {split} labels are {list(labels.shape)} {labels.dtype}; they must be class numbers [n]")
    if inputs.dtype == torch.uint8:
        inputs = inputs.unsqueeze(1) if inputs.dim() == 3 else inputs
        if inputs.dim() != 4:
            raise ConfigError(
                f"the {split} samples are {list(inputs.shape[1:])} uint8, which stands for images [C, H, W]; "
                "convert other samples to float32"
            )
    elif inputs.is_floating_point():
        inputs = inputs.float()
    elif inputs.is_complex():
        raise ConfigError(f"the {split} samples are {inputs.dtype}; integers or a floating type are possible")
    else:
        inputs = inputs.to(torch.int64)  # tokens and other codes
    return inputs, labels.to(torch.int64)


def _as_pair(sample: Any, split: str, index: int) -> tuple[Tensor, int]:
    try:
        x, y = sample
        if hasattr(x, "getbands"):  # a PIL image, without importing PIL for those who have none
            array = np.array(x)
            x = torch.from_numpy(array if array.ndim == 2 else array.transpose(2, 0, 1))
        return torch.as_tensor(x), int(y)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"sample {index} of the {split} data set is no (x, y) pair with a tensor x and a class number y: {error}"
        ) from None
