"""Figures for the page: each panel as the traces and layout of plotly.js, which shows exact values on hovering.

Colours stay names (`§c0`, with opacity `§c0/16`) that the page's script looks up in the theme of the moment.
"""

from __future__ import annotations

import html
import math
from typing import Any

import numpy as np

from fedpurin.report.figure import Axis, Bars, Box, Figure, Grid, Kind, Level, Line, Mark, Panel, Points
from fedpurin.report.read import Array
from fedpurin.report.style import Style
from fedpurin.report.table import format_bytes

SHARE_OF_BUBBLE = 22.0  # pixels of the largest
TICKS: dict[Kind, dict[str, Any]] = {
    "number": {"exponentformat": "power"},
    "count": {"tickformat": ",d"},
    "share": {"tickformat": ".3~%"},
    "points": {"tickformat": "~g", "ticksuffix": " pp"},
    "bytes": {"tickformat": "~s", "ticksuffix": "B"},
    "seconds": {"tickformat": "~g", "ticksuffix": " s"},
}
HOVER: dict[Kind, str] = {
    "number": "{%s:.5~g}", "count": "{%s:,}", "share": "{%s:.2%%}",
    "points": "{%s:+.2f} pp", "bytes": "{%s:,.0f} B", "seconds": "{%s:.4~g} s",
}  # fmt: skip
MAX_UNIT_TICKS = 10
LEVEL_POINTS = 24
RING_PIXELS, NAMED_PIXELS = 560.0, 15.0
"""Length of a ring of clients, and the smallest of its points that holds a name; smaller ones tell it when hovered."""
HEIGHT = 300  # pixels of a usual panel


def to_plotly(figure: Figure) -> list[dict[str, Any]]:
    """For each panel: title, pixels of height, traces, layout."""
    return [
        {
            "title": panel.title,
            "height": round(HEIGHT * panel.rows * (1.25 if len(figure.panels) == 1 else 1)),
            "data": [trace for mark in panel.marks for trace in _traces(mark, panel)],
            "layout": {
                "xaxis": _axis(panel.x, panel, "x"),
                "yaxis": _axis(panel.y, panel, "y"),
                "barmode": "stack",
                "hovermode": "closest",
                "shapes": [shape for mark in panel.marks if isinstance(mark, Level) for shape in _rule(mark, panel)],
            },
        }
        for panel in figure.panels
    ]


def _axis(axis: Axis, panel: Panel, which: str) -> dict[str, Any]:
    if axis.hidden:
        layout: dict[str, Any] = {"visible": False, "range": [axis.low, axis.high]}
    else:
        layout = {"title": {"text": _safe(axis.label)}, **TICKS[axis.kind]}
    if axis.log:
        layout |= {"type": "log", **_log_ticks(axis, panel, which)}
    if axis.categories:
        ends = [len(axis.categories) - 0.4, -0.6] if which == "y" else [-0.6, len(axis.categories) - 0.4]
        step = panel.every(axis)
        layout |= {
            "tickmode": "array",
            "tickvals": list(range(0, len(axis.categories), step)),
            "ticktext": [_safe(name) for name in axis.categories[::step]],
            "range": ends,
            "showgrid": False,
        }
    elif not axis.log:
        if axis.kind == "count" and _span(panel, axis, which) <= MAX_UNIT_TICKS:
            layout["dtick"] = 1  # left alone, plotly.js puts ticks between whole numbers
        if axis.low is not None or axis.high is not None:
            layout["range"] = [axis.low, axis.high]
        elif (flat := panel.flat_range(which)) and not axis.hidden:
            layout["range"] = list(flat)
    grid = next((mark for mark in panel.marks if isinstance(mark, Grid)), None)
    if which == "y" and grid is not None and not axis.categories:
        layout["range"] = [len(grid.values) - 0.5, -0.5]  # rows from the top, as in the files
    if panel.square and which == "y":
        layout |= {"scaleanchor": "x", "constrain": "domain"}
    if panel.square and which == "x":
        layout["constrain"] = "domain"
    return layout


def _span(panel: Panel, axis: Axis, which: str) -> float:
    """From end to end of an axis, by its data and where its ends are set."""
    values = np.append(panel.values(which), [end for end in (axis.low, axis.high) if end is not None])
    return float(values.max() - values.min()) if len(values) else math.inf


def _log_ticks(axis: Axis, panel: Panel, which: str) -> dict[str, Any]:
    """Few round values with their unit: plotly.js leaves the unit out between decades."""
    values = panel.values(which)
    values = values[values > 0]
    if not len(values):
        return {}
    low, high = math.floor(math.log10(values.min())), math.ceil(math.log10(values.max()))
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in panel.decade_steps(which)]
    write = format_bytes if axis.kind == "bytes" else "{:g}".format
    return {"tickvals": ticks, "ticktext": [write(tick) for tick in ticks]}


def _traces(mark: Mark, panel: Panel) -> list[dict[str, Any]]:
    match mark:
        case Line():
            return _line(mark, panel)
        case Points():
            return [_points(mark, panel)]
        case Level():
            return [_level(mark, panel)] if mark.label else []
        case Bars():
            return [
                {
                    "type": "bar", "orientation": "h", "name": mark.label, "width": 0.66,
                    "y": list(range(len(mark.values))), "x": _numbers(mark.values),
                    "marker": {"color": f"§{mark.style.colour}", "pattern": {"shape": _PATTERNS[mark.style.dash]}},
                    "text": [_safe(name) for name in panel.y.categories], "textposition": "none",
                    "hovertemplate": f"<b>{_safe(mark.label)}</b><br>%{{text}}<br>{_hover('x', panel.x)}<extra></extra>",
                }
            ]  # fmt: skip
        case Box():
            return [_box(mark, panel)]
        case Grid():
            return [_grid(mark, panel)]


_PATTERNS = {"solid": "", "dash": "/", "dot": ".", "dashdot": "x"}


def _line(mark: Line, panel: Panel) -> list[dict[str, Any]]:
    style, colour = mark.style, f"§{mark.style.colour}"
    line: dict[str, Any] = {
        "type": "scatter", "name": mark.label, "x": _numbers(mark.x), "y": _numbers(mark.y),
        "mode": "lines+markers" if mark.markers else "lines",
        "line": _stroke(style),
        "marker": {"color": colour, "symbol": style.marker, "size": 6},
    }  # fmt: skip
    if panel.x.hidden:
        return [line | {"hoverinfo": "skip", "line": _stroke(style) | {"width": 1}}]
    template = f"<b>{_safe(mark.label)}</b><br>{_hover('x', panel.x)}<br>{_hover('y', panel.y)}"
    traces = [line]
    if mark.low is not None and mark.high is not None and not style.quiet:
        known = np.isfinite(mark.low) & np.isfinite(mark.high)
        half = (mark.high - mark.low) / 2
        if (half[known] > 0).any():
            is_share = panel.y.kind == "share"
            line["customdata"] = _numbers(100 * half if is_share else half)
            template += " ± %" + ("{customdata:.2f} pp" if is_share else HOVER[panel.y.kind] % "customdata")
            around = np.concatenate([np.flatnonzero(known), np.flatnonzero(known)[::-1]])
            edge = np.concatenate([mark.low[known], mark.high[known][::-1]])
            band = {
                "type": "scatter", "name": mark.label, "x": _numbers(mark.x[around]), "y": _numbers(edge),
                "mode": "lines", "line": {"width": 0}, "fill": "toself",
                "fillcolor": f"{colour}/{panel.band_percent}", "hoverinfo": "skip",
            }  # fmt: skip
            traces.insert(0, band)
    if len(mark.notes):
        line["text"] = list(mark.notes)
        template += "<br>%{text}"
    line["hovertemplate"] = f"{template}<extra></extra>"
    return traces


def _stroke(style: Style) -> dict[str, Any]:
    return {
        "color": f"§{style.colour}/45" if style.quiet else f"§{style.colour}",
        "width": 1 if style.quiet else 2,
        "dash": style.dash,
    }


def _points(mark: Points, panel: Panel) -> dict[str, Any]:
    colour = f"§{mark.style.colour}"
    marker: dict[str, Any] = {
        "color": f"{colour}/45" if mark.style.quiet else colour,
        "symbol": mark.style.marker,
        "size": 9,
    }
    if mark.size is not None:
        marker |= {"size": _numbers(SHARE_OF_BUBBLE * np.sqrt(mark.size)), "line": {"width": 0}, "opacity": 0.85}
    elif mark.names:
        marker["size"] = min(19.0, RING_PIXELS / len(mark.names))
    shows_names = len(mark.names) and marker["size"] >= NAMED_PIXELS
    trace: dict[str, Any] = {
        "type": "scatter", "mode": "markers+text" if shows_names else "markers", "name": mark.label,
        "x": _numbers(mark.x), "y": _numbers(mark.y), "marker": marker,
    }  # fmt: skip
    for name, error in (("error_x", mark.x_error), ("error_y", mark.y_error)):
        if error is not None:
            trace[name] = {"array": _numbers(np.nan_to_num(error)), "color": colour, "thickness": 1.2, "width": 3}
    if shows_names:
        trace |= {"text": [_safe(name) for name in mark.names], "textfont": {"size": 10, "color": "§paper"}}
    if len(mark.notes):
        trace |= {"customdata": list(mark.notes), "hovertemplate": "%{customdata}<extra></extra>"}
    else:
        errors = [
            _plus_minus(float(error[0]), axis.kind) if error is not None and len(error) == 1 else ""
            for error, axis in ((mark.x_error, panel.x), (mark.y_error, panel.y))
        ]
        where = f"{_hover('x', panel.x)}{errors[0]}<br>{_hover('y', panel.y)}{errors[1]}"
        trace["hovertemplate"] = f"<b>{_safe(mark.label)}</b><br>{where}<extra></extra>"
    return trace


def _rule(mark: Level, panel: Panel) -> list[dict[str, Any]]:
    """The level from edge to edge, and its band."""
    across = {"xref": "paper", "x0": 0, "x1": 1, "name": mark.label, "layer": "below"}
    colour = f"§{mark.style.colour}"
    rule = {
        "type": "line", "y0": mark.y, "y1": mark.y,
        "line": {"color": f"{colour}/45" if mark.style.quiet else colour, "dash": mark.style.dash, "width": 1.5},
    }  # fmt: skip
    if not mark.std > 0 or mark.style.quiet:
        return [across | rule]
    band = {
        "type": "rect", "y0": mark.y - mark.std, "y1": mark.y + mark.std,
        "fillcolor": f"{colour}/{panel.band_percent // 2}", "line": {"width": 0},
    }  # fmt: skip
    return [across | band, across | rule]


def _level(mark: Level, panel: Panel) -> dict[str, Any]:
    """What hovering finds on a level, and what makes the axis reach it: plotly.js does neither for shapes."""
    at = panel.values("x")
    low, high = (float(at.min()), float(at.max())) if len(at) else (0.0, 1.0)
    x = np.geomspace(low, high, LEVEL_POINTS) if panel.x.log and low > 0 else np.linspace(low, high, LEVEL_POINTS)
    text = f"<b>{_safe(mark.label)}</b><br>{_hover('y', panel.y)}{_plus_minus(mark.std, panel.y.kind)}"
    return {
        "type": "scatter", "mode": "lines", "name": mark.label, "x": _numbers(x), "y": _numbers(np.full(len(x), mark.y)),
        "line": {"color": f"§{mark.style.colour}", "width": 0}, "hovertemplate": f"{text}<extra></extra>",
    }  # fmt: skip


def _plus_minus(std: float, kind: Kind) -> str:
    """A standard deviation as text behind its mean; that of a share in percentage points."""
    if not std > 0:
        return ""
    if kind in ("share", "points"):
        return f" ± {100 * std if kind == 'share' else std:.2f} pp"
    return " ± " + {"bytes": f"{std:,.0f} B", "seconds": f"{std:.4g} s", "count": f"{std:,.1f}"}.get(kind, f"{std:.4g}")


def _box(mark: Box, panel: Panel) -> dict[str, Any]:
    """Quartiles and whiskers are computed here, as matplotlib does: plotly.js would interpolate in another way."""
    known = np.isfinite(mark.values)
    values = mark.values[known]
    given = mark.notes or [""] * len(mark.values)
    notes = [note for note, is_known in zip(given, known, strict=True) if is_known]
    first, median, third = quartiles = np.percentile(values, (25, 50, 75)) if len(values) else np.full(3, math.nan)
    reach = 1.5 * (third - first)
    inside = values[(values >= first - reach) & (values <= third + reach)] if len(values) else quartiles
    low, high = min(inside.min(), first), max(inside.max(), third)
    box = zip(("q1", "median", "q3", "lowerfence", "upperfence"), (first, median, third, low, high), strict=True)
    return {
        "type": "box", "orientation": "h", "name": mark.label, "x": [_numbers(values)], "y": [mark.position],
        **{name: _numbers(np.array([value])) for name, value in box},
        "boxpoints": "all", "jitter": 0.5, "pointpos": 0, "width": 0.6, "hoveron": "points",
        "marker": {"color": f"§{mark.style.colour}/55", "size": 4},
        "line": {"color": f"§{mark.style.colour}", "width": 1.5},
        "fillcolor": f"§{mark.style.colour}/10", "text": [notes],
        "hovertemplate": f"<b>{_safe(mark.label)}</b><br>%{{text}}<br>{_hover('x', panel.x)}<extra></extra>",
    }  # fmt: skip


def _grid(mark: Grid, panel: Panel) -> dict[str, Any]:
    rows, columns = mark.values.shape
    x = list(range(columns)) if mark.x is None else _numbers(mark.x)
    named = [
        [_safe(f"{panel.y.label} {y}") + "<br>" + _safe(f"{panel.x.label} {x}") for x in panel.x.categories or x]
        for y in panel.y.categories or range(rows)
    ]
    return {
        "type": "heatmap", "z": [_numbers(row) for row in mark.values], "x": x, "y": list(range(rows)),
        "zmin": mark.low, "zmax": mark.high, "colorscale": "Viridis", "hoverongaps": False, "text": named,
        "showscale": mark.scale,
        "colorbar": {"title": {"text": _safe(mark.label), "side": "right"}, "thickness": 10, **TICKS[mark.kind]},
        "hovertemplate": "%{text}<br><b>%" + HOVER[mark.kind] % "z" + "</b><extra></extra>",
    }  # fmt: skip


def _hover(which: str, axis: Axis) -> str:
    if axis.categories:
        return f"{_safe(axis.label)} %{{{which}}}"
    return f"{_safe(axis.label)} %" + HOVER[axis.kind] % which


def _safe(text: str) -> str:
    """Text as plotly.js shows it: it takes some HTML, and braces in a template are places to fill in."""
    return html.escape(text).replace("{", "&#123;")


def _numbers(values: Array) -> list[float | int | None]:
    """Seven significant digits, whole numbers in full, null for NaN."""
    return [
        None if not math.isfinite(value) else int(value) if value == int(value) else float(f"{value:.7g}")
        for value in np.asarray(values, dtype=np.float64).tolist()
    ]
