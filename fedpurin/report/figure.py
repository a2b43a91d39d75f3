"""What a figure shows, said once: panels of marks on axes with units. Two renderers draw it (draw.py, interactive.py).

Owns no looks (style.py) and no numbers' meaning (parts/). Each figure carries the numbers behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedpurin.report.read import Array
from fedpurin.report.style import Style
from fedpurin.report.table import Numbers, Table

Kind = Literal["number", "count", "share", "points", "bytes", "seconds"]
"""What an axis measures: a share is a fraction of one and reads in percent, points are percentage
points (differences of shares), bytes take decimal prefixes."""


@dataclass(frozen=True)
class Axis:
    """One axis: what it measures, and where it starts and ends if not by the data."""

    label: str
    kind: Kind = "number"
    log: bool = False
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()
    """Names at 0, 1, 2, … instead of numbers."""
    hidden: bool = False


@dataclass(frozen=True, eq=False)
class Line:
    """A curve, with a band from `low` to `high` if given. NaN breaks it."""

    label: str
    x: Array
    y: Array
    style: Style
    low: Array | None = None
    high: Array | None = None
    markers: bool = False
    notes: Sequence[str] = ()
    """What hovering adds at each point."""


@dataclass(frozen=True, eq=False)
class Points:
    """Single points, with error bars of ± `x_error`, `y_error`, or of given areas (`size`, 0 to 1 of the largest)."""

    label: str
    x: Array
    y: Array
    style: Style
    x_error: Array | None = None
    y_error: Array | None = None
    size: Array | None = None
    names: Sequence[str] = ()
    """Written beside the points."""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Level:
    """A horizontal reference across the panel, with a band of ± `std` if that is a number."""

    label: str
    y: float
    style: Style
    std: float = math.nan


@dataclass(frozen=True, eq=False)
class Bars:
    """One part of stacked horizontal bars: a value for each category of the y axis."""

    label: str
    values: Array
    style: Style


@dataclass(frozen=True, eq=False)
class Box:
    """A distribution at a category of the y axis: quartiles, and every value as a point."""

    label: str
    position: int
    values: Array
    style: Style
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Grid:
    """A coloured matrix, rows from the top. Its axes' categories name rows and columns, else `x` holds the numbers."""

    label: str
    values: Array
    kind: Kind = "number"
    low: float | None = None
    high: float | None = None
    x: Array | None = None
    scale: bool = True
    """Whether a colour bar stands beside it; panels of one scale need one."""


Mark = Line | Points | Level | Bars | Box | Grid


@dataclass(frozen=True)
class Panel:
    """Marks on a pair of axes. `square` keeps both axes to one scale."""

    x: Axis
    y: Axis
    marks: Sequence[Mark]
    title: str = ""
    square: bool = False
    rows: float = 1.0
    """Height, in units of a usual panel."""

    def every(self, axis: Axis, most: int = 40) -> int:
        """Of an axis' categories, every how many-th is named, so that names (at most `most`) do not touch."""
        return -(-len(axis.categories) // min(most, 12 if self.square else 40))

    def values(self, which: str) -> Array:
        """The finite places of lines and points on the x or the y axis."""
        several = [getattr(mark, which) for mark in self.marks if isinstance(mark, Line | Points)]
        values: Array = np.concatenate([np.empty(0), *several])
        return values[np.isfinite(values)]

    def flat_range(self, which: str) -> tuple[float, float] | None:
        """Where an axis starts and ends if all that is drawn on it is one value: left alone, ticks would repeat it."""
        values = [self.values(which)]
        for mark in self.marks:
            if isinstance(mark, Level) and which == "y":
                values.append(np.array([mark.y, mark.y + np.nan_to_num(mark.std)]))
            if isinstance(mark, Line) and which == "y" and mark.low is not None and mark.high is not None:
                values += [mark.low, mark.high]
            if isinstance(mark, Points) and (error := mark.x_error if which == "x" else mark.y_error) is not None:
                values.append(getattr(mark, which) + np.nan_to_num(error))
        known = np.concatenate(values)
        known = known[np.isfinite(known)]
        if not len(known) or known.max() - known.min() > 1e-3 * abs(known).max():
            return None
        value = float(known.mean())
        if (self.x if which == "x" else self.y).kind == "share":
            return max(value - 0.05, -0.005), min(value + 0.05, 1.005)
        return (0.0, 2 * value) if value > 0 else (value - 1.0, value + 1.0)

    def decade_steps(self, which: str) -> tuple[int, ...]:
        """Which multiples of a power of ten a logarithmic axis names: the fewer, the more decades it spans."""
        values = self.values(which)
        values = values[values > 0]
        decades = math.log10(values.max() / values.min()) if len(values) else 0.0
        return (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)

    @property
    def band_percent(self) -> int:
        """Opacity of bands: many over each other would make a fog."""
        return 16 if sum(isinstance(mark, Line) for mark in self.marks) <= 5 else 8


@dataclass(frozen=True)
class Figure:
    """Panels under one title and caption; `key` names its files."""

    key: str
    title: str
    caption: str
    panels: Sequence[Panel]
    numbers: Numbers
    legend: bool = True
    columns: int = 3
    """Panels beside each other, at most."""

    def legend_entries(self) -> list[tuple[str, Style, bool]]:
        """Label, style and whether it is an area, for each series that is not quiet, once."""
        entries: dict[str, tuple[str, Style, bool]] = {}
        for panel in self.panels if self.legend else ():
            for mark in panel.marks:
                if not isinstance(mark, Grid | Box) and not mark.style.quiet and mark.label:
                    entries.setdefault(mark.label, (mark.label, mark.style, isinstance(mark, Bars)))
        return list(entries.values())


@dataclass(frozen=True)
class Remark:
    """A sentence in a figure's place: what is not there and how to get it."""

    text: str


@dataclass(frozen=True)
class Section:
    """One part of the page: a heading, a sentence, and figures, tables and remarks in order."""

    key: str
    title: str
    text: str
    items: Sequence[Figure | Table | Remark]


def positions(count: int) -> Array:
    """0, 1, 2, …: where an axis of categories has its names."""
    return np.arange(count, dtype=np.float64)
