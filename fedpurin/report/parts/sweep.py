"""Part 3: the headline, density and bytes against a swept option (τ by default), and the headline against these two."""

from __future__ import annotations

import html
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from fedpurin.report.comparison import SETTING, Comparison, Group, Spread
from fedpurin.report.figure import Axis, Figure, Kind, Line, Mark, Panel, Remark, Section
from fedpurin.report.named import describe, describe_option, format_value, short_name
from fedpurin.report.parts.accuracy import both_ways, quiet_first, reference
from fedpurin.report.parts.overview import final_value, headline_axis
from fedpurin.report.read import Run
from fedpurin.report.style import LOCAL, Style, categorical
from fedpurin.report.table import Numbers

MAX_SETTINGS = 3


def mean_density(run: Run) -> float:
    """Share of the shared parameters that are critical, mean over clients and rounds."""
    values = run.metrics.get("mask/density", np.empty(0)) if run.uses_masks else np.empty(0)
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


COSTS: tuple[tuple[str, str, Kind, Callable[[Run], float]], ...] = (
    ("density", "Mask density", "share", mean_density),
    ("bytes", "Bytes a client and round", "bytes", both_ways),
)
NUM_MEASURES = 1 + len(COSTS)


def section(comparison: Comparison) -> Section:
    x = comparison.x
    if x is None:
        return Section(
            "sweep",
            "Swept options",
            "What sparsity costs and saves.",
            [Remark("No numeric option was swept. Try: fedpurin -m program.tau=0.1,0.3,0.5,0.7 seed=1,2,3")],
        )
    others = [option for option in comparison.swept if option != x]
    hint = f" Also swept, for --x: {', '.join(others)}." if others else ""
    return Section(
        "sweep",
        f"Against {short_name(x)}",
        f"Final metrics against {x}, mean over seeds.{hint}",
        [by_option(comparison, x), *([] if x.startswith(SETTING) else trade_off(comparison, x))],
    )


def by_option(comparison: Comparison, x: str) -> Figure:
    """The headline, density and bytes as x grows; what does not have the option is a level."""
    head = comparison.judged_by
    measures = ((head.key, headline_axis(head).label, head.kind, final_value), *COSTS)
    values = comparison.values(x)
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    rows: list[list[Any]] = []
    panels = []
    for title, members in _settings_beside(comparison, x).items():
        series, without = _series(comparison, x, members)
        styles = _styles(comparison, series)
        for name, measured, kind, measure in measures:
            marks: list[Mark] = []
            for label, groups in series.items():
                spreads = [group.spread(measure) for group in groups]
                places = [_value(group, x) for group in groups]
                rows += [
                    [title, name, label, place, s.mean, s.std, s.count]
                    for place, s in zip(places, spreads, strict=True)
                ]
                at = [float(place) if numeric else values.index(place) for place in places]
                if any(math.isfinite(spread.mean) for spread in spreads):
                    marks.append(_line(label, at, spreads, styles[label]))
            for group in without:
                spread = group.spread(measure)
                rows.append([title, name, group.label, None, spread.mean, spread.std, spread.count])
                if math.isfinite(spread.mean) and (name == head.key or spread.mean > 0):
                    marks.append(reference(group, spread))
            if any(isinstance(mark, Line) for mark in marks):
                panels.append(Panel(_x_axis(x, values, numeric), Axis(measured, kind), quiet_first(marks), title))
    return Figure(
        "by_option",
        f"{head.title}, density and bytes against {short_name(x)}",
        f"x is {x}. Bands are ± one sample standard deviation over seeds; levels are methods without this option.",
        panels[: MAX_SETTINGS * NUM_MEASURES],
        Numbers(("setting", "figure", "label", x, "mean", "std", "seeds"), rows),
    )


def trade_off(comparison: Comparison, x: str) -> list[Figure]:
    """The headline against density and against bytes, points joined in the order of x."""
    head = comparison.judged_by
    rows: list[list[Any]] = []
    panels = []
    for title, members in _settings_beside(comparison, x).items():
        series, without = _series(comparison, x, members)
        styles = _styles(comparison, series)
        for name, measured, kind, measure in COSTS:
            marks: list[Mark] = []
            for label, groups in series.items():
                cost = [group.spread(measure) for group in groups]
                gain = [group.spread(final_value) for group in groups]
                notes = [html.escape(describe_option(x, _value(group, x))) for group in groups]
                rows += [
                    [title, name, label, note, c.mean, g.mean] for note, c, g in zip(notes, cost, gain, strict=True)
                ]
                if sum(spread.mean > 0 for spread in cost) > 1:
                    marks.append(_line(label, [spread.mean for spread in cost], gain, styles[label], notes))
            marks += [
                reference(group, spread)
                for group in without
                if math.isfinite((spread := group.spread(final_value)).mean) and marks
            ]
            if marks:
                panels.append(Panel(Axis(measured, kind), headline_axis(head), quiet_first(marks), title))
    if not panels:
        return []
    return [
        Figure(
            "trade_off",
            "What sparsity costs",
            f"Final {head.name} against mask density and against bytes, joined in the order of {x}.",
            panels[: MAX_SETTINGS * len(COSTS)],
            Numbers(("setting", "figure", "label", x, "cost_mean", f"{head.key}_mean"), rows),
        )
    ]


def _settings_beside(comparison: Comparison, x: str) -> dict[str, list[Group]]:
    """Groups by their setting without x: what is faced alike shares a panel."""
    settings: dict[str, list[Group]] = defaultdict(list)
    for group in comparison.groups:
        beside = {option: value for option, value in group.setting_options.items() if option != x}
        settings[describe(beside)].append(group)
    return settings


def _series(comparison: Comparison, x: str, members: list[Group]) -> tuple[dict[str, list[Group]], list[Group]]:
    """Groups that differ in x only, by what they have in common, and those that do not use the option."""
    series: dict[str, list[Group]] = defaultdict(list)
    without: list[Group] = []
    swept = comparison.swept
    for group in members:
        if x != "method" and x not in group.options:
            without.append(group)
            continue
        others = {option: value for option, value in group.variant.items() if option in swept and option != x}
        if x == "program.budget":
            others.pop("program.name", None)  # only that program has a budget
        head = group.method if "method" in swept and x != "method" else ""
        series[" ".join(part for part in (head, describe(others)) if part) or group.method].append(group)
    order = comparison.values(x)
    return {
        label: sorted(groups, key=lambda group: order.index(_value(group, x))) for label, groups in series.items()
    }, without


def _styles(comparison: Comparison, series: dict[str, list[Group]]) -> dict[str, Style]:
    """A series has its method's hue, as in other figures; several of one method are shades of it."""
    methods = [method for method in comparison.values("method") if method != "local"]
    owners: dict[str, list[str]] = defaultdict(list)
    for label, groups in series.items():
        owners[groups[0].method].append(label)
    styles = {}
    for method, labels in owners.items():
        for level, label in enumerate(labels):
            styles[label] = LOCAL if method == "local" else categorical(methods.index(method), level, len(labels))
    return styles


def _value(group: Group, x: str) -> Any:
    return group.method if x == "method" else group.options[x]


def _x_axis(x: str, values: list[Any], numeric: bool) -> Axis:
    if not numeric:
        return Axis(x, categories=tuple(format_value(value) for value in values))
    log = min(values) > 0 and max(values) >= 50 * min(values)
    symbol = short_name(x)
    return Axis(x if symbol == x.rpartition(".")[2] else f"{symbol} ({x})", log=log)


def _line(label: str, at: list[float], spreads: list[Spread], style: Style, notes: list[str] | None = None) -> Line:
    mean, std = (np.array([getattr(spread, name) for spread in spreads]) for name in ("mean", "std"))
    around = np.nan_to_num(std)
    return Line(label, np.array(at), mean, style, mean - around, mean + around, markers=True, notes=notes or ())
