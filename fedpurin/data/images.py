"""The shape that decoded images are brought to: colour channels and side, by `data.channels` and `data.image_size`.

Owns: the order of dims, conversion between grey and colour, and resizing with a centre crop. Does not own: decoding, and the
random crops of training (pool.py).
"""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor

from fedpurin.config import ConfigError, DataConfig

_LUMA = (19_595, 38_470, 7_471)  # ITU-R 601's 0.299, 0.587, 0.114 in 1/2¹⁶, as PIL has them: white stays white
_CHUNK = 1024  # images resized at a time: the float copy inside stays small


def check_order(images: UInt8[Tensor, "n c h w"], what: str) -> None:
    """Refuse images [n, H, W, C], as many programs keep them: read as [n, C, H, W] they would be H channels of W×C.

    Raises:
        ConfigError: the last dim may be colours and the first may not.
    """
    colours, (first, _, last) = (1, 3), images.shape[1:]
    if last in colours and first not in colours and min(images.shape[1:3]) > max(colours):
        order = " × ".join(map(str, images.shape[1:]))
        raise ConfigError(
            f"{what} are {order} uint8, and images are [C, H, W]: move the colours in front (of an array of all images: "
            f"x.transpose(0, 3, 1, 2)); what really has {first} channels is to be float32"
        )


def conform(images: UInt8[Tensor, "n c h w"], config: DataConfig) -> UInt8[Tensor, "n c2 h2 w2"]:
    """Images with `data.channels` channels, square with side `data.image_size`; what is null stays as it is."""
    channels, size = config.channels or images.shape[1], config.image_size
    if channels == images.shape[1] and (size is None or images.shape[2:] == (size, size)):
        return images
    return torch.cat([_conform_chunk(chunk, channels, size) for chunk in torch.split(images, _CHUNK)])


def to_square(image: UInt8[Tensor, "... h w"], size: int) -> UInt8[Tensor, "... size size"]:
    """Bring the shorter side to `size` pixels (bilinear, antialiased) and cut out the centre."""
    if image.shape[-2:] == (size, size):
        return image
    from torchvision.transforms.v2 import functional  # imported where used: it takes seconds

    resized: Tensor = functional.resize(image, [size], antialias=True)
    square: Tensor = functional.center_crop(resized, [size, size])
    return square


def with_channels(image: UInt8[Tensor, "... c h w"], channels: int) -> UInt8[Tensor, "... channels h w"]:
    """Repeat grey into three channels, or weigh three (ITU-R 601) into grey."""
    present = image.shape[-3]
    if present == channels:
        return image
    if present == 1:
        return image.expand(*image.shape[:-3], channels, *image.shape[-2:])
    weights = torch.tensor(_LUMA, dtype=torch.int32).view(3, 1, 1)
    grey = (image.to(torch.int32) * weights).sum(dim=-3, keepdim=True) + 2**15
    return (grey >> 16).to(torch.uint8)


def _conform_chunk(images: Tensor, channels: int, size: int | None) -> Tensor:
    images = with_channels(images, channels)
    return (images if size is None else to_square(images, size)).contiguous()
