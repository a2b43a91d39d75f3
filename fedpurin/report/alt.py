"""What a figure shows, in words: the text for readers who do not see it.

Owns: naming the ends of curves, places of points, levels, medians and ranges, with their units. Does not own the
caption, which says how the figure was made.
"""

from __future__ import annotations

import math

import numpy as np

from fedpurin.report.figure import Axis, Bars, Box, Figure, Grid, Kind, Level, Line, Panel, Points
from fedpurin.report.read import Array
from fedpurin.report.table import format_bytes

MAX_NAMED = 6
"""Series that a panel's text names: the first of them in order, and the last."""


def seen(figure: Figure) -> str:
    """The title and a sentence a panel."""
    return " ".join([f"{figure.title}.", *(_panel(panel) for panel in figure.panels)])


def _panel(panel: Panel) -> str:
    parts = [part for part in (_lines(panel), _points(panel), _bars(panel), _boxes(panel), _grids(panel)) if part]
    levels = [mark for mark in panel.marks if isinstance(mark, Level) and mark.label]
    if levels:
        named = _ranked([(mark.y, f"{mark.label} {_say(mark.y, panel.y.kind)}") for mark in levels])
        parts.append(f"levels: {named}")
    return (f"{panel.title}: " if panel.title else "") + "; ".join(parts) + "."


def _lines(panel: Panel) -> str:
    lines = [mark for mark in panel.marks if isinstance(mark, Line) and mark.label and np.isfinite(mark.y).any()]
    if not lines or panel.x.hidden:
        return ""
    ends = []
    for line in lines:
        last = int(np.flatnonzero(np.isfinite(line.y) & np.isfinite(line.x))[-1])
        ends.append((float(line.y[last]), f"{line.label} {_say(float(line.y[last]), panel.y.kind)}"))
    places = np.concatenate([line.x[np.isfinite(line.x)] for line in lines])
    return (
        f"{_name(panel.y)} over {_name(panel.x)} from {_at(float(places.min()), panel.x)} to "
        f"{_at(float(places.max()), panel.x)}; at the end of its line: {_ranked(ends)}"
    )


def _points(panel: Panel) -> str:
    marks = [mark for mark in panel.marks if isinstance(mark, Points)]
    named = [mark for mark in marks if mark.label and len(mark.x)]
    if named:
        told = [
            (float(mark.y[0]), f"{mark.label} {_at(float(mark.y[0]), panel.y)} at {_at(float(mark.x[0]), panel.x)}")
            for mark in named
        ]
        return f"{_name(panel.y)} against {_name(panel.x)}: {_ranked(told)}"
    if panel.x.hidden:
        return f"a ring of {sum(len(mark.x) for mark in marks)} clients joined by lines" if marks else ""
    return f"{sum(len(mark.x) for mark in marks)} bubbles, {_name(panel.y)} by {_name(panel.x)}" if marks else ""


def _bars(panel: Panel) -> str:
    bars = [mark for mark in panel.marks if isinstance(mark, Bars)]
    if not bars:
        return ""
    totals = np.sum([np.nan_to_num(mark.values) for mark in bars], axis=0)
    told = [
        (float(total), f"{name} {_say(float(total), panel.x.kind)}")
        for name, total in zip(panel.y.categories, totals, strict=True)
    ]
    return f"{_name(panel.x)} in all: {_ranked(told)}; made of {', '.join(mark.label for mark in bars)}"


def _boxes(panel: Panel) -> str:
    told = []
    for mark in panel.marks:
        if isinstance(mark, Box) and np.isfinite(mark.values).any():
            first, median, third = np.nanpercentile(mark.values, (25, 50, 75))
            low, middle, high = (_say(float(value), panel.x.kind) for value in (first, median, third))
            told.append((float(median), f"{mark.label} {middle} (half between {low} and {high})"))
    return f"medians of {_name(panel.x)}: {_ranked(told)}" if told else ""


def _grids(panel: Panel) -> str:
    return "; ".join(_grid(mark) for mark in panel.marks if isinstance(mark, Grid))


def _grid(mark: Grid) -> str:
    known: Array = mark.values[np.isfinite(mark.values)]
    rows, columns = mark.values.shape
    if not len(known):
        return f"{mark.label}: {rows} by {columns} cells, none known"
    low, middle, high = (_say(float(value), mark.kind) for value in np.percentile(known, (0, 50, 100)))
    return f"{mark.label}: {rows} by {columns} cells from {low} to {high}, median {middle}"


def _ranked(told: list[tuple[float, str]]) -> str:
    """From the highest to the lowest; of many the first ones and the last."""
    texts = [text for _, text in sorted(told, key=lambda item: -item[0] if math.isfinite(item[0]) else math.inf)]
    if len(texts) > MAX_NAMED:
        texts = [*texts[: MAX_NAMED - 1], f"{len(texts) - MAX_NAMED} more", texts[-1]]
    return ", ".join(texts)


def _name(axis: Axis) -> str:
    return axis.label[:1].lower() + axis.label[1:] if axis.label else "values"


def _at(value: float, axis: Axis) -> str:
    if axis.categories:
        return axis.categories[min(max(round(value), 0), len(axis.categories) - 1)]
    return _say(value, axis.kind)


def _say(value: float, kind: Kind) -> str:
    if not math.isfinite(value):
        return "unknown"
    match kind:
        case "share":
            return f"{100 * value:.1f}%"
        case "points":
            return f"{value:+.1f} points"
        case "bytes":
            return format_bytes(value)
        case "seconds":
            return f"{value:.3g} s"
        case "count":
            return f"{value:,.0f}"
    return f"{value:.3g}"
