"""The two renderers show the same: quartiles and ticks of the page are those of the files."""

from __future__ import annotations

import numpy as np
from matplotlib.cbook import boxplot_stats

from fedpurin.report.figure import Axis, Box, Figure, Panel
from fedpurin.report.interactive import to_plotly
from fedpurin.report.style import Style
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
