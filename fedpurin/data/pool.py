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

import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from fedpurin.data import augment
from fedpurin.data.samples import GATHER_BYTES, Indices, Samples, epoch_order


@dataclass(frozen=True, eq=False)
class Pool(Samples):
    """Samples `inputs` [n, ...] of one split with their targets `labels`: class numbers [n], or anything else [n, ...].

    uint8 inputs are images [n, C, H, W] and are normalised to (x − mean_c) / std_c with `mean` and `std` [C] in
    pixel values 0–255; floating and int64 inputs of any shape go to the model as they are.
    """

    inputs: Shaped[Tensor, "n ..."]
    labels: Shaped[Tensor, "n ..."]
    mean: Float32[Tensor, " channels"] | None = None
    std: Float32[Tensor, " channels"] | None = None
    flip: bool = False
    rotation: float = 0.0
    crop_padding: int = 0
    channels_last: bool = False
    """Whether batches of images are laid out [n, H, W, C] in memory; their shape stays [n, C, H, W]."""

    def __post_init__(self) -> None:
        if (self.flip or self.rotation or self.crop_padding) and self.inputs.dim() != 4:
            raise ValueError(
                f"data.flip, data.rotation and data.crop_padding need images [C, H, W]; samples are "
                f"{list(self.sample_shape)}"
            )

    @property
    def num_samples(self) -> int:
        return len(self.labels)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    @property
    def dtype_name(self) -> str:
        return str(self.inputs.dtype).removeprefix("torch.")

    @property
    def device(self) -> torch.device:
        return self.inputs.device

    def to(self, device: torch.device | str) -> Pool:
        mean, std = (None if stat is None else stat.to(device) for stat in (self.mean, self.std))
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device), mean=mean, std=std)

    def batches(
        self, indices: Indices, batch_size: int, *, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (x [batch, ...] float32 or int64, y [batch, ...]), which are views of a shared buffer."""
        order = epoch_order(indices, self.device, generator)
        draws = None
        if generator is not None:
            draws = augment.draw(len(order), self.flip, self.rotation, self.crop_padding, generator)
        sample_bytes = 4 * max(1, self.inputs[0].numel())
        stride = max(1, GATHER_BYTES // (sample_bytes * batch_size)) * batch_size
        for start in range(0, len(order), stride):
            part = slice(start, start + stride)
            inputs = self._gather(order[part], None if draws is None else draws[part])
            labels = self.labels.index_select(0, order[part])
            yield from zip(torch.split(inputs, batch_size), torch.split(labels, batch_size), strict=True)

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.inputs, self.labels)

    def _gather(self, order: Int64[Tensor, " batch"], draws: augment.Draws | None) -> Shaped[Tensor, "batch ..."]:
        inputs = self.inputs.index_select(0, order)
        if inputs.dtype == torch.int64:  # tokens
            return inputs
        inputs = inputs.to(torch.float32)
        if self.mean is not None and self.std is not None:
            inputs.sub_(self.mean.view(-1, 1, 1)).div_(self.std.view(-1, 1, 1))
        if draws is not None:
            inputs = augment.apply(inputs, draws, self.crop_padding)
        return _lay_out(inputs) if self.channels_last else inputs


def _lay_out(images: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n c h w"]:
    """Channels last. The strides are said, not asked for: with one channel both layouts are the same memory, and a
    convolution would take the other one."""
    _, channels, height, width = images.shape
    strides = (height * width * channels, 1, width * channels, channels)
    return images.permute(0, 2, 3, 1).contiguous().as_strided(images.shape, strides)
