"""The trackers' pictures: what they show of a few and of many tensors, and that they touch no global state."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from fedpurin.tracking.mask_figures import density_figure, overlap_figure, to_pixels

FEW = ["net.0.weight", "net.0.bias", "head.weight"]
MANY = [
    f"net.layer{layer}.{place}.{kind}" for layer in range(1, 6) for place in range(15) for kind in ("weight", "bias")
]


def texts(figure: Any) -> list[str]:
    labels = [text.get_text() for axis in figure.axes for text in (*axis.texts, *axis.get_xticklabels())]
    return labels + [text.get_text() for axis in figure.axes for text in axis.get_yticklabels()]


def test_few_tensors_have_their_names_sizes_and_shares() -> None:
    figure = density_figure(FEW, [30, 5, 1000], [0.5, 0.0, 0.251], 0.2571, number=7)
    assert {"net.0.weight  30", "net.0.bias  5", "head.weight  1,000", "50.0%", "0.0%", "25.1%"} <= set(texts(figure))
    assert figure.axes[0].yaxis_inverted()  # the first layer is on top
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "all 1,035 shared parameters: 25.7%",
        "weights",
        "biases",
    ]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.5, 0.0, 0.251]


def test_many_tensors_are_named_by_block() -> None:
    density = np.linspace(0, 1, len(MANY)).tolist()
    figure = density_figure(MANY, [100] * len(MANY), density, 0.5, number=7)
    shares, sizes = figure.axes
    assert [bar.get_height() for bar in shares.patches][: len(MANY)] == density
    assert [label.get_text() for label in sizes.get_xticklabels()] == [f"layer{layer}" for layer in range(1, 6)]


@pytest.mark.parametrize(("names", "height", "width"), [(FEW, 239, 936), (MANY, 598, 1170)])
def test_pictures_are_pixels_of_one_size(names: list[str], height: int, width: int) -> None:
    density = [0.5] * len(names)
    pixels = to_pixels(density_figure(names, [10] * len(names), density, 0.5, number=0))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (height, width, 3)
    assert 0.5 < (pixels == 255).all(axis=2).mean() < 0.99  # drawn on white, and not blank
    again = to_pixels(density_figure(names, [10] * len(names), density, 0.5, number=0))
    np.testing.assert_array_equal(pixels, again)


def test_an_overlap_without_a_diagonal_and_of_many_clients() -> None:
    overlap = [[None if i == j else 0.5 for j in range(64)] for i in range(64)]
    figure = overlap_figure(list(range(64)), overlap, number=3)
    assert 8 <= len(figure.axes[0].get_xticks()) <= 24  # no label covers its neighbour
    (image,) = figure.axes[0].images
    shown = np.ma.getmaskarray(image.get_array()) | np.isnan(np.ma.getdata(image.get_array()))
    np.testing.assert_array_equal(shown, np.eye(64, dtype=bool))
    assert to_pixels(figure).shape[2] == 3


def test_nothing_global_is_touched() -> None:
    code = (
        "import sys; from fedpurin.tracking.mask_figures import density_figure, to_pixels;"
        "assert 'matplotlib' not in sys.modules;"
        "to_pixels(density_figure(['a.weight'], [3], [0.5], 0.5, 0)); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
