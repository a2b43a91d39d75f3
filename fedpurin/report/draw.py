"""Figures as files: matplotlib to PNG, SVG and PDF, on white. The same numbers give the same bytes."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from fedpurin.report.figure import Axis, Bars, Box, Figure, Grid, Level, Line, Mark, Panel, Points
from fedpurin.report.look import LOOKS, Look
from fedpurin.report.style import LIGHT, Style

TITLE_CHARACTERS, LEGEND_CHARACTERS = 9.5, 9.0
"""As many as fit into an inch at a font of 9 pt."""
NAME_CHARACTERS = {"x": 18, "y": 26}
"""As much of a name as is written; longer ones would leave the panel no place."""
RING_POINTS, NAMED_POINTS = 380.0, 9.0
"""Length of a ring of clients, and the smallest of its points that holds a name."""
KINDS = ("png", "svg", "pdf")
METADATA: dict[str, Any] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": "fedpurin report"},
    "pdf": {"CreationDate": None, "Creator": "fedpurin report", "Producer": None},
}
HATCHES = {"dash": "////", "dot": "....", "dashdot": "xxxx"}
DASHES: dict[str, Any] = {"solid": "-", "dash": (0, (5, 2)), "dot": (0, (1, 1.5)), "dashdot": (0, (5, 2, 1, 2))}
MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v", "pentagon": "p",
    "star": "*", "hexagon": "h", "x": "x",
}  # fmt: skip
SETTINGS: dict[Any, Any] = {
    "axes.titleweight": "bold", "axes.edgecolor": "#9aa1ab", "axes.labelcolor": LIGHT["ink"],
    "text.color": LIGHT["ink"], "xtick.color": "#555c66", "ytick.color": "#555c66", "axes.grid": True,
    "grid.color": LIGHT["grid"], "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "svg.fonttype": "none", "svg.hashsalt": "fedpurin", "pdf.fonttype": 42, "path.simplify_threshold": 0.2,
    "text.parse_math": False,  # a dollar in the name of a class is a dollar
}  # fmt: skip


def draw_files(
    figure: Figure, *, look: Look | None = None, dpi: int = 160, kinds: Sequence[str] = KINDS
) -> dict[str, bytes]:
    """The figure's file of each of `kinds`."""
    look = look or LOOKS["plain"]
    size = look.font_size
    sizes: dict[Any, Any] = {
        "font.size": size, "axes.titlesize": size + 0.5, "axes.labelsize": size, "legend.fontsize": size - 0.5,
        "xtick.labelsize": size, "ytick.labelsize": size, "lines.linewidth": look.line_width,
    }  # fmt: skip
    files = {}
    with matplotlib.rc_context({**SETTINGS, **sizes, "font.family": list(look.families)}):
        canvas = _draw(figure, look)
        for kind in kinds:
            file = io.BytesIO()
            canvas.savefig(file, format=kind, dpi=dpi if kind == "png" else None, metadata=METADATA[kind])
            canvas.set_layout_engine("none")  # keeps the places just found: finding them takes longer than drawing
            files[kind] = file.getvalue()
    return files


def _draw(figure: Figure, look: Look) -> Canvas:
    named = any(len(name) > 6 for panel in figure.panels for name in panel.y.categories)
    columns = look.columns(min(len(figure.panels), figure.columns), named)
    rows = math.ceil(len(figure.panels) / columns)
    width, height = look.size(columns)
    scale = 9.0 / look.font_size
    longest = int(width * LEGEND_CHARACTERS * scale)
    entries = [(_short(label, longest), style, area) for label, style, area in figure.legend_entries()]
    heights = [max(panel.rows for panel in figure.panels[row * columns : (row + 1) * columns]) for row in range(rows)]
    per_row = _legend_columns([label for label, _, _ in entries], width * scale)
    legend_height = 0.24 / scale * math.ceil(len(entries) / per_row)
    canvas = Canvas(figsize=(width, height * sum(heights) + legend_height), layout="constrained")
    axes = canvas.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for panel, axis in zip(figure.panels, axes.flat, strict=False):
        _draw_panel(panel, axis, canvas, width / columns * scale)
    for axis in axes.flat[len(figure.panels) :]:
        axis.set_visible(False)
    if entries:
        handles = [_handle(label, style, area) for label, style, area in entries]
        canvas.legend(handles=handles, loc="outside lower center", ncols=per_row, frameon=False)
    return canvas


def _legend_columns(labels: list[str], width: float) -> int:
    longest = max(map(len, labels), default=0)
    return max(1, min(len(labels), int(width / (0.65 + 0.075 * longest))))


def _draw_panel(panel: Panel, axis: Axes, canvas: Canvas, width: float) -> None:
    """`width` is in inches at a font of 9 pt."""
    lines = textwrap.wrap(panel.title, int(width * TITLE_CHARACTERS), max_lines=3, placeholder=" …")
    axis.set_title("\n".join(lines), loc="left")
    for which, spec in (("x", panel.x), ("y", panel.y)):
        _scale(axis, which, spec, panel, width)
    stacked: dict[str, Any] = {}
    for mark in panel.marks:
        _draw_mark(mark, axis, canvas, panel, stacked, min(1.0, width / 3.5))
    if panel.square:
        axis.set_aspect("equal")
    if panel.x.categories or any(isinstance(mark, Bars | Box) for mark in panel.marks):
        axis.grid(visible=False, axis="y")
    if panel.x.hidden:
        axis.set_axis_off()


def _scale(axis: Axes, which: str, spec: Axis, panel: Panel, width: float) -> None:
    """Label, limits, scale and the ticks' format of one axis."""
    getattr(axis, f"set_{which}label")("" if spec.hidden else textwrap.fill(spec.label, int(width * TITLE_CHARACTERS)))
    ticks = getattr(axis, f"{which}axis")
    if spec.log:
        getattr(axis, f"set_{which}scale")("log")
        ticks.set_major_locator(LogLocator(subs=panel.decade_steps(which)))
        ticks.set_minor_formatter(NullFormatter())
    if spec.categories:
        every = panel.every(spec, max(2, int(4 * width)) if panel.square else 40)
        names = [_short(name, NAME_CHARACTERS[which]) for name in spec.categories[::every]]
        rotation = 45 if which == "x" and sum(map(len, names)) > 40 else 0
        ticks.set_ticks(range(0, len(spec.categories), every), names, rotation=rotation)
        getattr(axis, f"set_{which}lim")(-0.6, len(spec.categories) - 0.4)
        if which == "y":
            axis.invert_yaxis()
    elif spec.low is not None or spec.high is not None:
        getattr(axis, f"set_{which}lim")(spec.low, spec.high)
    elif not spec.log and not spec.hidden and (flat := panel.flat_range(which)):
        getattr(axis, f"set_{which}lim")(*flat)
    if spec.kind == "share":
        ticks.set_major_formatter(FuncFormatter(_percent))
    elif spec.kind == "bytes":
        ticks.set_major_formatter(EngFormatter(unit="B", sep=" "))
        if which == "x" and not spec.log:
            longest = max((len(_short(name, NAME_CHARACTERS["y"])) for name in panel.y.categories), default=0)
            free = width - 0.075 * longest  # inches that names on the y axis leave
            ticks.set_major_locator(MaxNLocator(nbins=max(2, int(1.3 * free))))  # their labels are wide
    elif spec.kind in ("seconds", "points", "number") and not spec.categories:
        unit = {"seconds": " s", "points": " pp"}.get(spec.kind, "")
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}{unit}"))
    elif spec.kind == "count" and not spec.log and not spec.categories:
        ticks.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _percent(value: float, _: object) -> str:
    return f"{100 * value:.6g}%"


def _draw_mark(mark: Mark, axis: Axes, canvas: Canvas, panel: Panel, stacked: dict[str, Any], scale: float) -> None:
    """`scale` makes the markers of a narrow panel smaller."""
    match mark:
        case Line():
            _draw_line(mark, axis, panel)
        case Points():
            _draw_points(mark, axis, scale)
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


def _draw_points(mark: Points, axis: Axes, scale: float) -> None:
    colour = LIGHT[mark.style.colour]
    if mark.x_error is not None or mark.y_error is not None:
        axis.errorbar(mark.x, mark.y, xerr=mark.x_error, yerr=mark.y_error, fmt="none", ecolor=colour, elinewidth=1)
    across = min(11.4, RING_POINTS / max(len(mark.names), 1))
    area = 110.0 * mark.size if mark.size is not None else across**2 if mark.names else 30.0
    axis.scatter(
        mark.x, mark.y, s=scale**2 * area, color=colour, marker=MARKERS[mark.style.marker], linewidths=1.0, zorder=3,
        alpha=0.4 if mark.style.quiet else 0.85 if mark.size is not None else 1.0,
    )  # fmt: skip
    for x, y, name in zip(mark.x, mark.y, mark.names if across >= NAMED_POINTS else (), strict=False):
        axis.annotate(name, (x, y), ha="center", va="center", fontsize=7 * scale, color="white", zorder=4)


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
