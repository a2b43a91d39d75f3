"""A small convolutional network for small images; the default client on digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MIN_IMAGE_SIZE = 8


class HalvingMaxPool(nn.MaxPool2d):
    """2×2 max-pooling. In evaluation it is the maximum of four slices: the same numbers, nine times as fast on a CPU.

    torch's kernel also finds where each maximum lies, which only a gradient needs.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training or x.is_cuda:
            pooled: Tensor = super().forward(x)
            return pooled
        height, width = (side // 2 * 2 for side in x.shape[-2:])
        rows = torch.maximum(x[..., 0:height:2, :width], x[..., 1:height:2, :width])
        return torch.maximum(rows[..., 0::2], rows[..., 1::2])


def cnn(num_classes: int, in_channels: int = 1, image_size: int = 8, norm: bool = False) -> nn.Module:
    """Two convolutions, each halved by max-pooling, and two linear layers: 35,914 parameters on 8×8 digits.

    The largest of four is taken before negative ones become zero: the same numbers and gradients from a quarter of the work.
    Without `norm` clients keep no running statistics, and every parameter is shared under either `share_norm`. With it each
    convolution is followed by batch normalisation: 192 parameters more, which stay with the client under FedBN and FedPURIN.

    Raises:
        ValueError: images smaller than 8 pixels.
    """
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"cnn needs images of at least {MIN_IMAGE_SIZE} pixels, not {image_size}; set data.image_size")
    side = image_size // 4
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, kernel_size=3, padding=1),
        *([nn.BatchNorm2d(32)] if norm else []),
        HalvingMaxPool(2),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, kernel_size=3, padding=1),
        *([nn.BatchNorm2d(64)] if norm else []),
        HalvingMaxPool(2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(64 * side * side, 64),
        nn.ReLU(inplace=True),
        nn.Linear(64, num_classes),
    )
