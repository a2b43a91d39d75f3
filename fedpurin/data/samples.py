"""One split of a data set, whatever its samples are made of: what the rest of the engine may ask of it.

Owns: the interface, and the two kinds that are no plain (x, y): `Stacked`, where every part of a sample has one shape and
is one tensor over all samples (dicts, several inputs), and `Collated`, where the user's function makes a batch of a list of
samples (sequences of unequal length). Does not own: images, vectors and tokens with one target (pool.py), how a data set is
read (from_torch.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

Indices = NDArray[np.int64] | Tensor | Sequence[int]
Collate = Callable[[list[Any]], Any]
GATHER_BYTES = 32 * 2**20
"""Bytes gathered at a time, whole batches and at least one of them: bounds the memory of an epoch."""


class Samples(ABC):
    """`labels` are what the samples are to be told apart by: class numbers [n], or other targets [n, ...], or none."""

    labels: Tensor | None

    @property
    @abstractmethod
    def num_samples(self) -> int: ...

    @property
    @abstractmethod
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample's first part, (C, H, W) for images; () where samples differ."""

    @property
    @abstractmethod
    def dtype_name(self) -> str:
        """What a sample's values are, for messages and digests."""

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @abstractmethod
    def to(self, device: torch.device | str) -> Samples:
        """The same samples on another device; tensors that are there already are not copied."""

    @abstractmethod
    def batches(self, indices: Indices, batch_size: int, *, generator: torch.Generator | None = None) -> Iterator[Any]:
        """One epoch over the samples `indices` as batches on the device; the last holds what is left.

        With a CPU `generator` this is a training epoch: shuffled and, where there is something to augment, augmented.
        Without one it is an evaluation: in the order of `indices`. Read batches, do not write into them.
        """

    @abstractmethod
    def tensors(self) -> Iterator[Tensor]:
        """Everything that makes the samples what they are, for a digest; targets last."""

    @property
    def has_classes(self) -> bool:
        """Whether `labels` are class numbers."""
        labels = self.labels
        return labels is not None and labels.dim() == 1 and labels.dtype == torch.int64

    def class_counts(self, indices: Indices) -> Int64[Tensor, " classes"] | None:
        """How many of these samples are of each class; None where labels are no class numbers."""
        if self.labels is None or not self.has_classes or not len(self.labels):
            return None
        labels = self.labels[torch.as_tensor(indices, device=self.labels.device)]
        return torch.bincount(labels, minlength=int(self.labels.max()) + 1)


def epoch_order(indices: Indices, device: torch.device, generator: torch.Generator | None) -> Int64[Tensor, " n"]:
    """The samples of an epoch in order: as given, or shuffled by a CPU generator."""
    order = upload(torch.as_tensor(indices, dtype=torch.int64), device)
    if generator is None:
        return order
    return order.index_select(0, upload(torch.randperm(len(order), generator=generator), device))


def upload(indices: Int64[Tensor, " n"], device: torch.device) -> Int64[Tensor, " n"]:
    """Copy to the device without waiting for the kernels that are queued there."""
    if device.type != "cuda" or indices.is_cuda:
        return indices.to(device)
    return indices.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class Stacked(Samples):
    """Samples of any structure (mappings, tuples, nested) whose parts are tensors `columns` [n, ...], used as they are.

    A batch has the structure of a sample, each part [batch, ...].
    """

    columns: tuple[Shaped[Tensor, "n ..."], ...]
    structure: Any
    """`TreeSpec` of one sample; its leaves are in the order of `columns`."""
    labels: Shaped[Tensor, "n ..."] | None = None

    @property
    def num_samples(self) -> int:
        return len(self.columns[0])

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.columns[0].shape[1:])

    @property
    def dtype_name(self) -> str:
        parts = [f"{list(c.shape[1:])} {str(c.dtype).removeprefix('torch.')}" for c in self.columns]
        return str(pytree.tree_unflatten(parts, self.structure))

    @property
    def device(self) -> torch.device:
        return self.columns[0].device

    def to(self, device: torch.device | str) -> Stacked:
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, columns=tuple(column.to(device) for column in self.columns), labels=labels)

    def batches(self, indices: Indices, batch_size: int, *, generator: torch.Generator | None = None) -> Iterator[Any]:
        order = epoch_order(indices, self.device, generator)
        sample_bytes = sum(max(1, column[0].numel()) * column.element_size() for column in self.columns)
        stride = max(1, GATHER_BYTES // (sample_bytes * batch_size)) * batch_size
        for part in torch.split(order, stride):
            gathered = [torch.split(column.index_select(0, part), batch_size) for column in self.columns]
            for parts in zip(*gathered, strict=True):
                yield pytree.tree_unflatten(parts, self.structure)

    def tensors(self) -> Iterator[Tensor]:
        yield from self.columns


@dataclass(frozen=True, eq=False)
class Collated(Samples):
    """Samples as they came, on the CPU; `collate` turns a list of them into a batch, which is then moved to the device.

    The function should only put samples together: whatever it draws comes from torch's global generator, which a client's
    fit seeds.
    """

    samples: Sequence[Any]
    collate: Collate
    labels: Shaped[Tensor, "n ..."] | None = None
    place: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dtype_name(self) -> str:
        home = self.collate if hasattr(self.collate, "__qualname__") else type(self.collate)
        return f"samples for {home.__module__}.{home.__qualname__}"

    @property
    def device(self) -> torch.device:
        return self.place

    def to(self, device: torch.device | str) -> Collated:
        return replace(self, place=torch.device(device))

    def batches(self, indices: Indices, batch_size: int, *, generator: torch.Generator | None = None) -> Iterator[Any]:
        order = epoch_order(torch.as_tensor(indices).cpu(), torch.device("cpu"), generator)
        for part in torch.split(order, batch_size):
            batch = self.collate([self.samples[index] for index in part.tolist()])
            yield batch if self.place.type == "cpu" else move_data_to_device(batch, self.place)

    def tensors(self) -> Iterator[Tensor]:
        for sample in self.samples:
            for leaf in pytree.tree_leaves(sample):
                yield _as_tensor(leaf)


def _as_tensor(leaf: Any) -> Tensor:
    """Numbers and arrays by value, anything else by its text."""
    if isinstance(leaf, Tensor):
        return leaf
    if hasattr(leaf, "getbands") or (isinstance(leaf, np.ndarray) and leaf.dtype != object):
        return torch.as_tensor(np.array(leaf))
    if isinstance(leaf, bool | int | float):
        return torch.tensor(leaf)
    text = leaf if isinstance(leaf, str) else type(leaf).__qualname__
    return torch.from_numpy(np.frombuffer(text.encode(), dtype=np.uint8).copy())
