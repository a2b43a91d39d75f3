"""Channels and sizes by hand."""

from __future__ import annotations

import torch

from fedpurin.data.images import to_square, with_channels


def test_grey_is_repeated_and_colour_weighed() -> None:
    grey = torch.tensor([[[7]]], dtype=torch.uint8)
    assert with_channels(grey, 3).flatten().tolist() == [7, 7, 7]
    pixels = {(255, 255, 255): 255, (255, 0, 0): 76, (0, 255, 0): 150, (0, 0, 255): 29, (0, 0, 0): 0}
    for colour, level in pixels.items():
        image = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1)
        assert with_channels(image, 1).flatten().tolist() == [level]


def test_shorter_side_is_resized_and_the_centre_cut_out() -> None:
    image = torch.zeros(1, 4, 12, dtype=torch.uint8)
    image[:, :, 4:8] = 200  # the middle third
    assert to_square(image, 4).unique().tolist() == [200]
    assert to_square(image, 2).shape == (1, 2, 2)
    half = torch.arange(16, dtype=torch.uint8).view(1, 4, 4)
    assert torch.equal(to_square(half, 4), half)  # nothing to do, and nothing done
