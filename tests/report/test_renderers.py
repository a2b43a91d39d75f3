"""The two renderers show the same: quartiles and ticks of the page are those of the files."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.cbook import boxplot_stats

from fedpurin.report.figure import Axis, Box, Figure, Panel
from fedpurin.report.interactive import to_plotly
from fedpurin.report.style import DARK, LIGHT, Style
from fedpurin.report.table import Numbers


def test_quartiles_and_whiskers_are_those_of_the_png() -> None:
    values = np.array([0.1, 0.2, 0.25, 0.5, 0.55, 0.6, 0.61, 5.0, np.nan])
    notes = [f"client {index}" for index in range(9)]
    panel = Panel(Axis("a", "share"), Axis("", categories=("one",)), [Box("one", 0, values, Style("c0"), notes)])
    ((drawn,),) = [panel["data"] for panel in to_plotly(Figure("k", "t", "c", [panel], Numbers((), ())))]
    (expected,) = boxplot_stats(values[:-1])
    for name, key in (
        ("q1", "q1"),
        ("median", "med"),
        ("q3", "q3"),
        ("lowerfence", "whislo"),
        ("upperfence", "whishi"),
    ):
        np.testing.assert_allclose(drawn[name], [expected[key]])
    assert drawn["q1"] == [0.2375]
    assert (len(drawn["x"][0]), drawn["text"][0][-1], drawn["y"]) == (8, "client 7", [0])


def test_neighbouring_ticks_of_shares_read_differently() -> None:
    panel = Panel(Axis("a", "share"), Axis("", categories=("one",)), [])
    (drawn,) = to_plotly(Figure("k", "t", "c", [panel], Numbers((), ())))
    assert drawn["layout"]["xaxis"]["tickformat"] == ".3~%"  # 95.5%, 96%: ".0%" wrote both as 96%


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("name", ["ink", "muted", "c0"])
def test_text_stands_out_from_the_paper(theme: dict[str, str], name: str) -> None:
    """WCAG's contrast ratio of everything that is written: text, captions, links and bold."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(theme[name]), luminance(theme["paper"])))
    assert (high + 0.05) / (low + 0.05) >= 4.5
