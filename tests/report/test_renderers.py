"""The two renderers show the same: quartiles and ticks of the page are those of the files."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.cbook import boxplot_stats

from fedpurin.report.draw import draw_files
from fedpurin.report.figure import Axis, Bars, Box, Figure, Grid, Level, Line, Panel, Points
from fedpurin.report.interactive import to_plotly
from fedpurin.report.style import DARK, LIGHT, Style, categorical, contrast
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
    assert contrast(theme[name], theme["paper"]) >= 4.5  # text, captions, links and bold


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_levels_are_shades_of_one_hue_that_stand_out_from_the_paper(theme: dict[str, str]) -> None:
    assert contrast("#000000", "#ffffff") == 21
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
    for hue in range(6):
        ratios = [contrast(theme[f"c{hue}s{step}"], theme["paper"]) for step in range(9)]
        assert ratios == sorted(ratios)
        assert ratios[0] >= 3
        assert ratios[-1] >= 12
    assert [categorical(1, level, 3).colour for level in range(3)] == ["c1s0", "c1s4", "c1s8"]
    assert (categorical(7).colour, categorical(7).dash) == ("c1", "dash")


def test_a_level_has_a_band_and_its_spread_in_the_hover() -> None:
    line = Line("m", np.array([1.0, 9.0]), np.array([0.5, 0.75]), Style("c0"))
    marks = [line, Level("alone", 0.25, Style("c1"), std=0.125)]
    panel = Panel(Axis("Round", "count"), Axis("Accuracy", "share"), marks)
    (drawn,) = to_plotly(Figure("k", "t", "c", [panel], Numbers((), ())))
    band, rule = drawn["layout"]["shapes"]
    assert (band["type"], band["y0"], band["y1"], rule["y0"]) == ("rect", 0.125, 0.375, 0.25)
    trace = drawn["data"][-1]
    assert (trace["x"][0], trace["x"][-1], set(trace["y"])) == (1, 9, {0.25})
    assert trace["hovertemplate"] == "<b>alone</b><br>Accuracy %{y:.2%} ± 12.50 pp<extra></extra>"


def test_ticks_do_not_repeat_where_all_values_are_one() -> None:
    point = Points("m", np.array([8e6]), np.array([0.8]), Style("c0"), x_error=np.array([np.nan]))
    panel = Panel(Axis("Bytes", "bytes"), Axis("Accuracy", "share"), [point])
    (drawn,) = to_plotly(Figure("k", "t", "c", [panel], Numbers((), ())))
    assert drawn["layout"]["xaxis"]["range"] == [0, 16e6]
    assert drawn["layout"]["yaxis"]["range"] == pytest.approx([0.75, 0.85])
    spread = replace(point, y_error=np.array([0.125]))
    (drawn,) = to_plotly(Figure("k", "t", "c", [replace(panel, marks=[spread])], Numbers((), ())))
    assert "range" not in drawn["layout"]["yaxis"]


def test_rows_of_a_grid_run_from_the_top_in_both() -> None:
    panel = Panel(Axis("Class", "count"), Axis("Client", "count"), [Grid("samples", np.zeros((3, 2)), "count")])
    (drawn,) = to_plotly(Figure("k", "t", "c", [panel], Numbers((), ())))
    assert drawn["layout"]["yaxis"]["range"] == [2.5, -0.5]


@pytest.mark.parametrize(("clients", "mode", "size"), [(20, "markers+text", 19), (64, "markers", 8.75)])
def test_points_on_a_ring_are_named_where_a_name_fits(clients: int, mode: str, size: float) -> None:
    names = [str(client_id) for client_id in range(clients)]
    ring = Points("", np.zeros(clients), np.zeros(clients), Style("c0"), names=names, notes=names)
    frame = Axis("", low=-1.25, high=1.25, hidden=True)
    (drawn,) = to_plotly(Figure("k", "t", "c", [Panel(frame, frame, [ring], square=True)], Numbers((), ())))
    assert (drawn["data"][0]["mode"], drawn["data"][0]["marker"]["size"]) == (mode, size)


def test_bytes_beside_long_names_have_few_ticks() -> None:
    """Labels such as `800 kB` ran into each other where names took half of the panel."""
    names = ("fedpurin_recommended τ=0.1", "fedpurin_recommended τ=0.3")
    panel = Panel(
        Axis("Bytes", "bytes"), Axis("", categories=names), [Bars("dense", np.array([4e6, 1e6]), Style("c0"))]
    )
    figure = Figure("k", "t", "c", [panel, panel], Numbers((), ()), columns=2)
    svg = draw_files(figure, kinds=("svg",))["svg"].decode()
    assert len(re.findall(r">[\d.]+ [kM]?B</text>", svg)) <= 6


def test_long_names_leave_the_files_a_figure(recwarn: pytest.WarningsRecorder) -> None:
    """matplotlib gave up on a layout whose labels left the axes no place, with a warning to the user."""
    names = tuple(f"{index} " + "a very long name " * 8 for index in range(3))
    box = Box(names[0], 0, np.array([0.1, 0.2]), Style("c0"))
    panel = Panel(Axis("a", "share"), Axis("", categories=names), [box], names[1] * 3)
    files = draw_files(Figure("k", "t", "c", [panel] * 2, Numbers((), ())))
    assert {kind: content[:4] for kind, content in files.items()} == {"png": b"\x89PNG", "svg": b"<?xm", "pdf": b"%PDF"}
    assert not [str(warning.message) for warning in recwarn if "constrained_layout" in str(warning.message)]
