"""What a figure shows, in words."""

from __future__ import annotations

import numpy as np

from fedpurin.report.alt import seen
from fedpurin.report.figure import Axis, Bars, Box, Figure, Grid, Level, Line, Panel, Points
from fedpurin.report.style import Style
from fedpurin.report.table import Numbers

ROUND, SHARE = Axis("Round", "count"), Axis("Accuracy", "share")


def words(panel: Panel) -> str:
    return seen(Figure("key", "Title", "Caption", [panel], Numbers((), ())))


def test_curves_are_told_by_their_ends_from_the_highest() -> None:
    x = np.array([1.0, 2.0, 3.0])
    marks = [
        Line("low", x, np.array([0.1, 0.2, np.nan]), Style()),
        Line("high", x, np.array([0.1, 0.5, 0.755]), Style()),
        Level("alone", 0.4, Style()),
    ]
    assert words(Panel(ROUND, SHARE, marks, "α=0.1")) == (
        "Title. α=0.1: accuracy over round from 1 to 3; at the end of its line: high 75.5%, low 20.0%; "
        "levels: alone 40.0%."
    )


def test_of_many_series_the_first_and_the_last_are_named() -> None:
    marks = [Level(f"m{index}", index / 10, Style()) for index in range(9)]
    assert words(Panel(ROUND, SHARE, marks)) == (
        "Title. levels: m8 80.0%, m7 70.0%, m6 60.0%, m5 50.0%, m4 40.0%, 3 more, m0 0.0%."
    )


def test_points_bars_boxes_and_grids_are_told_by_their_numbers() -> None:
    size, names = Axis("Bytes", "bytes"), Axis("", categories=("a", "b"))
    point = Points("fedavg", np.array([2e6]), np.array([0.5]), Style())
    assert words(Panel(size, SHARE, [point])) == "Title. accuracy against bytes: fedavg 50.0% at 2 MB."
    bars = [Bars("mask", np.array([1e3, 2e3]), Style()), Bars("values", np.array([3e3, 5e3]), Style())]
    assert words(Panel(size, names, bars)) == "Title. bytes in all: b 7 kB, a 4 kB; made of mask, values."
    box = Box("a", 0, np.array([0.0, 0.25, 0.5, 0.75, 1.0]), Style())
    assert words(Panel(SHARE, names, [box])) == ("Title. medians of accuracy: a 50.0% (half between 25.0% and 75.0%).")
    grid = Grid("overlap", np.array([[np.nan, 0.25], [0.5, 0.75]]))
    assert words(Panel(names, names, [grid])) == "Title. overlap: 2 by 2 cells from 0.25 to 0.75, median 0.5."
