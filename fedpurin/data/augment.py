"""Random flips, rotations and padded crops of a training batch, as one gather.

Owns: the draw of an epoch's random numbers and the map from output pixels to stored ones. Does not own: when they are
applied (pool.py: after scaling, so what lies outside an image is 0 in the model's units: the mean under
`data.normalise=standardise`, black under `unit`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Draws:
    """One entry a sample."""

    flipped: Bool[Tensor, " n"]
    top: Int64[Tensor, " n"]
    left: Int64[Tensor, " n"]
    """Corner of the crop in the padded image."""
    radians: Float64[Tensor, " n"] | None = None

    def __getitem__(self, part: slice) -> Draws:
        radians = None if self.radians is None else self.radians[part]
        return Draws(self.flipped[part], self.top[part], self.left[part], radians)


def draw(count: int, flip: bool, rotation: float, padding: int, generator: torch.Generator) -> Draws | None:
    """An epoch's draws from a CPU generator; None where nothing is augmented. Angles lie within ± `rotation` degrees."""
    if not (flip or rotation or padding):
        return None
    flips = torch.randint(2 if flip else 1, (1, count), generator=generator)[0]
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator)
    radians = None
    if rotation:
        turns = 2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1
        radians = turns * math.radians(rotation)
    return Draws(flips.bool(), top, left, radians)


def apply(images: Float32[Tensor, "n c h w"], draws: Draws, padding: int) -> Float32[Tensor, "n c h w"]:
    """Rotate about the centre (nearest pixel), pad by zeros, crop back to H × W, and mirror.

    Mirroring last has the distribution of mirroring first, for angles and corners are symmetric. Each output pixel's
    place in the stored image is computed, so there is no interpolation and one copy.
    """
    height, width = images.shape[2:]
    device = images.device
    flipped, top, left = (value.to(device).view(-1, 1, 1) for value in (draws.flipped, draws.top, draws.left))
    rows = top - padding + torch.arange(height, device=device).view(1, -1, 1)
    columns = torch.arange(width, device=device).view(1, 1, -1)
    columns = left - padding + torch.where(flipped, width - 1 - columns, columns)
    inside = _inside(rows, columns, height, width)
    if draws.radians is not None:
        # On the CPU in float64: the same pixels are chosen on every device.
        cos, sin = (f(draws.radians).to(device).view(-1, 1, 1) for f in (torch.cos, torch.sin))
        y, x = rows - (height - 1) / 2, columns - (width - 1) / 2
        rows = torch.round(cos * y - sin * x + (height - 1) / 2).long()
        columns = torch.round(sin * y + cos * x + (width - 1) / 2).long()
        inside = inside & _inside(rows, columns, height, width)
    places = (rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).flatten(1).unsqueeze(1)
    moved = images.flatten(2).gather(2, places.expand(-1, images.shape[1], -1)).view(images.shape)
    return moved.masked_fill_(~inside.unsqueeze(1), 0.0)


def _inside(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    return (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
