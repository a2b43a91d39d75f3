"""One split's samples as tensors on a device, and batches cut out of them by index.

Owns: what happens to a sample between storage and the model: the gather by index, conversion to float, the
per-channel normalisation, and the call of augment.py. Does not own: reading files (sources.py), who holds which
sample (partitions.py), the draw of seeds (the caller passes a generator from seeding.py).

All clients of a process share one pool; a client is an index vector. An epoch is gathered a few batches at a
time and its batches are views of that gather, so one training step pays for no data kernel of its own. Every
random number of an epoch is drawn at once on the CPU: the bits depend neither on the device nor on how the
epoch was cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.data import augment

GATHER_BYTES = 32 * 2**20
"""Float bytes gathered at a time, whole batches and at least one of them: bounds the memory of an epoch."""

Indices = NDArray[np.int64] | Tensor


@dataclass(frozen=True, eq=False)
class Pool:
    """Samples `inputs` [n, ...] and class numbers `labels` [n] of one split, on one device.

    uint8 inputs are images [n, C, H, W] and are normalised to (x − mean_c) / std_c with `mean` and `std` [C] in
    pixel values 0–255; floating and int64 inputs of any shape go to the model as they are.
    """

    inputs: Tensor
    labels: Int64[Tensor, " n"]
    mean: Tensor | None = None
    std: Tensor | None = None
    flip: bool = False
    rotation: float = 0.0
    crop_padding: int = 0

    def __post_init__(self) -> None:
        if (self.flip or self.rotation or self.crop_padding) and self.inputs.dim() != 4:
            raise ValueError(
                f"data.flip, data.rotation and data.crop_padding need images [C, H, W]; samples are "
                f"{list(self.sample_shape)}"
            )

    @property
    def num_samples(self) -> int:
        return len(self.labels)

    def class_counts(self, indices: Indices) -> Int64[Tensor, " classes"] | None:
        """How many of these samples are of each class of the pool; None where labels are no class numbers."""
        if self.labels.dim() != 1 or self.labels.is_floating_point() or not len(self.labels):
            return None
        labels = self.labels[torch.as_tensor(indices, device=self.device)]
        return torch.bincount(labels, minlength=int(self.labels.max()) + 1)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, (C, H, W) for images."""
        return tuple(self.inputs.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.inputs.device

    def to(self, device: torch.device | str) -> Pool:
        """The same pool on another device; tensors that are there already are not copied."""
        mean, std = (None if stat is None else stat.to(device) for stat in (self.mean, self.std))
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device), mean=mean, std=std)

    def batches(
        self, indices: Indices, batch_size: int, *, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Int64[Tensor, " batch"]]]:
        """One epoch over the samples `indices` as (x [batch, ...] float32, y [batch]) on the pool's device.

        With a CPU `generator` this is a training epoch: shuffled and augmented. Without one it is an
        evaluation: in the order of `indices`, as stored. The last batch holds what is left. Batches are views of
        a shared buffer: read them, do not write into them.
        """
        order = _upload(torch.as_tensor(indices, dtype=torch.int64), self.device)
        draws = None
        if generator is not None:
            order = order.index_select(0, _upload(torch.randperm(len(order), generator=generator), self.device))
            draws = augment.draw(len(order), self.flip, self.rotation, self.crop_padding, generator)
        sample_bytes = 4 * max(1, self.inputs[0].numel())
        stride = max(1, GATHER_BYTES // (sample_bytes * batch_size)) * batch_size
        for start in range(0, len(order), stride):
            part = slice(start, start + stride)
            inputs = self._gather(order[part], None if draws is None else draws[part])
            labels = self.labels.index_select(0, order[part])
            yield from zip(torch.split(inputs, batch_size), torch.split(labels, batch_size), strict=True)

    def _gather(self, order: Tensor, draws: augment.Draws | None) -> Tensor:
        inputs = self.inputs.index_select(0, order)
        if inputs.dtype == torch.int64:  # tokens
            return inputs
        inputs = inputs.to(torch.float32)
        if self.mean is not None and self.std is not None:
            inputs.sub_(self.mean.view(-1, 1, 1)).div_(self.std.view(-1, 1, 1))
        return inputs if draws is None else augment.apply(inputs, draws, self.crop_padding)


def _upload(indices: Tensor, device: torch.device) -> Tensor:
    """Copy to the device without waiting for the kernels that are queued there."""
    if device.type != "cuda" or indices.is_cuda:
        return indices.to(device)
    return indices.pin_memory().to(device, non_blocking=True)
