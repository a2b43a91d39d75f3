"""Linear layers for tables and vectors; images are flattened."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(
    num_classes: int, in_channels: int = 1, image_size: int | None = None, hidden: Sequence[int] = (128, 64)
) -> nn.Module:
    """A linear layer and a ReLU for every width in `hidden`, then the head. It has no norms."""
    widths = [in_channels * (image_size or 1) ** 2, *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for one, other in pairwise(widths):
        layers += [nn.Linear(one, other), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))
