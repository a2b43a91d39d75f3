"""Figures as files: matplotlib to PNG and SVG, on white. The same numbers give the same bytes."""

from __future__ import annotations

import io
import math
import textwrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullFormatter

from fedpurin.report.figure import Axis, Bars, Box, Figure, Grid, Level, Line, Mark, Panel, Points
from fedpurin.report.style import LIGHT, Style

PANEL_INCHES = (4.0, 2.9)
SINGLE_INCHES = (7.2, 3.8)
TITLE_CHARACTERS = 38  # as many as fit over a panel
NAME_CHARACTERS = {"x": 18, "y": 26, "legend": 64}
"""As much of a name as is written; longer ones would leave the panel no place."""
HATCHES = {"dash": "////", "dot": "....", "dashdot": "xxxx"}
DASHES: dict[str, Any] = {"solid": "-", "dash": (0, (5, 2)), "dot": (0, (1, 1.5)), "dashdot": (0, (5, 2, 1, 2))}
MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v", "pentagon": "p",
    "star": "*", "hexagon": "h", "x": "x",
}  # fmt: skip
SETTINGS: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "legend.fontsize": 8.5, "axes.titleweight": "bold",
    "axes.edgecolor": "#9aa1ab", "axes.labelcolor": LIGHT["ink"], "text.color": LIGHT["ink"],
    "xtick.color": "#555c66", "ytick.color": "#555c66", "axes.grid": True, "grid.color": LIGHT["grid"],
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.6,
    "svg.fonttype": "none", "svg.hashsalt": "fedpurin", "path.simplify_threshold": 0.2, "font.family": "DejaVu Sans",
    "text.parse_math": False,  # a dollar in the name of a class is a dollar
}  # fmt: skip


def draw_files(figure: Figure, *, dpi: int = 160) -> tuple[bytes, bytes]:
    """The figure as PNG and as SVG."""
    with matplotlib.rc_context(SETTINGS):
        canvas = _draw(figure)
        png, svg = io.BytesIO(), io.BytesIO()
        canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": "fedpurin report"})
        canvas.set_layout_engine("none")  # keeps the places just found: finding them takes longer than drawing
        canvas.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    return png.getvalue(), svg.getvalue()


def _draw(figure: Figure) -> Canvas:
    columns = min(len(figure.panels), figure.columns)
    rows = math.ceil(len(figure.panels) / columns)
    entries = [
        (_short(label, NAME_CHARACTERS["legend"]), style, area) for label, style, area in figure.legend_entries()
    ]
    width, height = SINGLE_INCHES if columns == 1 else (PANEL_INCHES[0] * columns, PANEL_INCHES[1])
    heights = [max(panel.rows for panel in figure.panels[row * columns : (row + 1) * columns]) for row in range(rows)]
    legend_height = 0.24 * math.ceil(len(entries) / _legend_columns(entries, width)) if entries else 0
    canvas = Canvas(figsize=(width, height * sum(heights) + legend_height), layout="constrained")
    axes = canvas.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for panel, axis in zip(figure.panels, axes.flat, strict=False):
        _draw_panel(panel, axis, canvas)
    for axis in axes.flat[len(figure.panels) :]:
        axis.set_visible(False)
    if entries:
        handles = [_handle(label, style, area) for label, style, area in entries]
        canvas.legend(handles=handles, loc="outside lower center", ncols=_legend_columns(entries, width), frameon=False)
    return canvas


def _legend_columns(entries: list[Any], width: float) -> int:
    longest = max(len(label) for label, _, _ in entries)
    return max(1, min(len(entries), int(width / (0.65 + 0.075 * longest))))


def _draw_panel(panel: Panel, axis: Axes, canvas: Canvas) -> None:
    lines = textwrap.wrap(panel.title, TITLE_CHARACTERS, max_lines=3, placeholder=" …")
    axis.set_title("\n".join(lines), loc="left")
    _scale(axis, "x", panel.x, panel.every(panel.x))
    _scale(axis, "y", panel.y, panel.every(panel.y))
    stacked: dict[str, Any] = {}
    for mark in panel.marks:
        _draw_mark(mark, axis, canvas, panel, stacked)
    if panel.square:
        axis.set_aspect("equal")
    if panel.x.categories or any(isinstance(mark, Bars | Box) for mark in panel.marks):
        axis.grid(visible=False, axis="y")
    if panel.x.hidden:
        axis.set_axis_off()


def _scale(axis: Axes, which: str, spec: Axis, every: int) -> None:
    """Label, limits, scale and the ticks' format of one axis."""
    getattr(axis, f"set_{which}label")("" if spec.hidden else spec.label)
    ticks = getattr(axis, f"{which}axis")
    if spec.log:
        getattr(axis, f"set_{which}scale")("log")
        ticks.set_minor_formatter(NullFormatter())
    if spec.categories:
        names = [_short(name, NAME_CHARACTERS[which]) for name in spec.categories[::every]]
        rotation = 45 if which == "x" and sum(map(len, names)) > 40 else 0
        ticks.set_ticks(range(0, len(spec.categories), every), names, rotation=rotation)
        getattr(axis, f"set_{which}lim")(-0.6, len(spec.categories) - 0.4)
        if which == "y":
            axis.invert_yaxis()
    elif spec.low is not None or spec.high is not None:
        getattr(axis, f"set_{which}lim")(spec.low, spec.high)
    if spec.kind == "share":
        ticks.set_major_formatter(FuncFormatter(_percent))
    elif spec.kind == "bytes":
        ticks.set_major_formatter(EngFormatter(unit="B", sep=" "))
        if which == "x" and not spec.log:
            ticks.set_major_locator(MaxNLocator(nbins=5))  # labels are wide, panels stand side by side
    elif spec.kind in ("seconds", "points", "number") and not spec.categories:
        unit = {"seconds": " s", "points": " pp"}.get(spec.kind, "")
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}{unit}"))
    elif spec.kind == "count" and not spec.log and not spec.categories:
        ticks.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _percent(value: float, _: object) -> str:
    return f"{100 * value:.6g}%"


def _draw_mark(mark: Mark, axis: Axes, canvas: Canvas, panel: Panel, stacked: dict[str, Any]) -> None:
    match mark:
        case Line():
            _draw_line(mark, axis, panel)
        case Points():
            _draw_points(mark, axis)
        case Level():
            colour = LIGHT[mark.style.colour]
            if mark.std > 0 and not mark.style.quiet:
                axis.axhspan(
                    mark.y - mark.std, mark.y + mark.std, color=colour, alpha=panel.band_percent / 200, linewidth=0
                )
            axis.axhline(mark.y, color=colour, linestyle=DASHES[mark.style.dash], linewidth=1.2)
        case Bars():
            left = stacked.get("end", np.zeros(len(mark.values)))
            axis.barh(range(len(mark.values)), mark.values, left=left, height=0.66, color=LIGHT[mark.style.colour],
                      hatch=HATCHES.get(mark.style.dash), edgecolor="white", linewidth=0.5)  # fmt: skip
            stacked["end"] = left + np.nan_to_num(mark.values)
        case Box():
            _draw_box(mark, axis)
        case Grid():
            _draw_grid(mark, axis, canvas, panel)


def _draw_line(mark: Line, axis: Axes, panel: Panel) -> None:
    colour, quiet = LIGHT[mark.style.colour], mark.style.quiet
    if mark.low is not None and mark.high is not None and not quiet:
        axis.fill_between(mark.x, mark.low, mark.high, color=colour, alpha=panel.band_percent / 100, linewidth=0)
    axis.plot(
        mark.x, mark.y, color=colour, linestyle=DASHES[mark.style.dash], alpha=0.35 if quiet else 1.0,
        linewidth=0.7 if quiet or panel.x.hidden else None, zorder=1.5 if quiet else 2,
        marker=MARKERS[mark.style.marker] if mark.markers else None, markersize=4,
    )  # fmt: skip


def _draw_points(mark: Points, axis: Axes) -> None:
    colour = LIGHT[mark.style.colour]
    if mark.x_error is not None or mark.y_error is not None:
        axis.errorbar(mark.x, mark.y, xerr=mark.x_error, yerr=mark.y_error, fmt="none", ecolor=colour, elinewidth=1)
    area = 110.0 * mark.size if mark.size is not None else 130.0 if mark.names else 30.0
    axis.scatter(
        mark.x, mark.y, s=area, color=colour, marker=MARKERS[mark.style.marker], linewidths=1.0, zorder=3,
        alpha=0.4 if mark.style.quiet else 0.85 if mark.size is not None else 1.0,
    )  # fmt: skip
    for x, y, name in zip(mark.x, mark.y, mark.names, strict=False):
        axis.annotate(name, (x, y), ha="center", va="center", fontsize=7, color="white", zorder=4)


def _draw_box(mark: Box, axis: Axes) -> None:
    values, colour = mark.values[np.isfinite(mark.values)], LIGHT[mark.style.colour]
    if not len(values):
        return
    axis.boxplot(
        [values], positions=[mark.position], orientation="horizontal", widths=0.55,
        showfliers=False, manage_ticks=False,
        boxprops={"color": colour}, medianprops={"color": colour, "linewidth": 2.2},
        whiskerprops={"color": colour}, capprops={"color": colour},
    )  # fmt: skip
    jitter = np.random.default_rng(0).uniform(-0.2, 0.2, len(values))
    axis.scatter(values, mark.position + jitter, s=7, color=colour, alpha=0.45, linewidths=0, zorder=3)


def _draw_grid(mark: Grid, axis: Axes, canvas: Canvas, panel: Panel) -> None:
    rows, columns = mark.values.shape
    x_low, x_high = (-0.5, columns - 0.5)
    if mark.x is not None and len(mark.x):
        half = (mark.x[-1] - mark.x[0]) / max(len(mark.x) - 1, 1) / 2 or 0.5
        x_low, x_high = mark.x[0] - half, mark.x[-1] + half
    image = axis.imshow(
        mark.values, aspect="equal" if panel.square else "auto", extent=(x_low, x_high, rows - 0.5, -0.5),
        vmin=mark.low, vmax=mark.high, cmap="viridis", interpolation="nearest",
    )  # fmt: skip
    axis.set_ylim(rows - 0.5, -0.5)
    axis.grid(visible=False)
    if not mark.scale:
        return
    bar = canvas.colorbar(image, ax=axis, label=mark.label, shrink=0.9)
    if mark.kind == "share":
        bar.ax.yaxis.set_major_formatter(FuncFormatter(_percent))


def _handle(label: str, style: Style, area: bool) -> Patch | Line2D:
    colour = LIGHT[style.colour]
    if area:
        return Patch(facecolor=colour, edgecolor="white", hatch=HATCHES.get(style.dash), label=label)
    return Line2D(
        [], [], color=colour, linestyle=DASHES[style.dash], marker=MARKERS[style.marker], markersize=4, label=label
    )
