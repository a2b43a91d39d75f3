"""What a run knows of its data: a training and a test pool, and what a model must know to fit them.

Owns: `LabelledData` and the normalisation statistics. Does not own: files (sources.py, folder.py), torch data sets
(from_torch.py) and batches (pool.py, samples.py).
"""

from __future__ import annotations

import math
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
from fedpurin.data.samples import Samples


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Both splits on the CPU; `Samples.to` moves one. Class c is called `class_names[c]`; targets that are no classes
    have no names."""

    name: str
    train: Samples
    test: Samples
    class_names: tuple[str, ...]
    clients: tuple[NDArray[Any], NDArray[Any]] | None = None
    """Whose each training and test sample is, by name; None where the data do not say."""

    padding: int | None = None
    """The token that was appended to sequences to make them of one length; None where none was."""

    num_tokens: int | None = None
    """How many tokens there are, where somebody knows better than the samples."""

    coding: tuple[dict[str, Any], ...] = ()
    """How a table's columns became inputs, one after the other: {"column", "mean", "std"} or {"column", "categories"}."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_outputs(self) -> int:
        """What a network has to return for a sample: a logit a class, else a number for each of the target's."""
        labels = self.train.labels
        return self.num_classes or (1 if labels is None else math.prod(labels.shape[1:]))

    @property
    def strata(self) -> tuple[str, ...]:
        """What partitions count samples by: the classes; one stratum where there are none."""
        return self.class_names or ("samples",)

    def stratum_of(self, split: Samples) -> Int64[np.ndarray, " n"]:
        """The stratum of each sample of one of both splits."""
        if self.class_names and split.labels is not None:
            return split.labels.cpu().numpy()
        return np.zeros(split.num_samples, dtype=np.int64)

    @property
    def vocabulary(self) -> int | None:
        """Number of tokens, the padding included, where samples are sequences of them; None for other samples."""
        inputs = [part.inputs for part in (self.train, self.test) if isinstance(part, Pool)]
        if len(inputs) < 2 or any(part.dtype != torch.int64 or part.dim() != 2 for part in inputs):
            return None
        return self.num_tokens or 1 + max(int(part.max()) for part in inputs)

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
    padding: int | None = None,
    num_tokens: int | None = None,
) -> LabelledData:
    """Put (inputs [n, ...], labels [n, ...]) of both splits together; uint8 images are scaled as `normalise` says.

    Without `class_names` the labels are targets that are no classes.

    Raises:
        ConfigError: an empty split, labels outside 0 … len(class_names) − 1, samples of different shapes, or a scaling of
            what is no picture.
    """
    for split, (inputs, labels) in (("training", train), ("test", test)):
        if len(inputs) == 0 or len(inputs) != len(labels):
            raise ConfigError(
                f"data={name}: {len(inputs)} {split} samples with {len(labels)} labels; both need as many, at least one"
            )
        if not class_names:
            continue
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
    if train[1].shape[1:] != test[1].shape[1:] or train[1].dtype != test[1].dtype:
        raise ConfigError(
            f"data={name}: training targets are {list(train[1].shape[1:])} {train[1].dtype}, test targets "
            f"{list(test[1].shape[1:])} {test[1].dtype}; they must agree"
        )
    if train[0].dtype != torch.uint8:
        refuse_scaling(name, normalise)
    mean, std = _scaling(train[0], normalise) if train[0].dtype == torch.uint8 else (None, None)
    try:
        pool = Pool(*train, mean=mean, std=std, flip=flip, rotation=rotation, crop_padding=crop_padding)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    plain = replace(pool, inputs=test[0], labels=test[1], flip=False, rotation=0.0, crop_padding=0)
    return LabelledData(name, pool, plain, tuple(class_names), clients, padding, num_tokens)


def refuse_scaling(name: str, normalise: str) -> None:
    """See that nobody expects [0, 1] of what is no picture: `standardise` is the default, and `none` what happens.

    Raises:
        ConfigError: data.normalise=unit.
    """
    if normalise == "unit":
        raise ConfigError(f"data.normalise=unit scales uint8 images; data={name} has none, and is used as it is")


def _scaling(
    images: UInt8[Tensor, "n c h w"], normalise: str
) -> tuple[Float32[Tensor, " c"] | None, Float32[Tensor, " c"] | None]:
    """What is subtracted from each channel's pixel values and what they are divided by."""
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
