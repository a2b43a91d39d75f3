"""Part 3: accuracy, density and bytes against a swept option (τ by default), and accuracy against the latter two."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from fedpurin.report.comparison import (
    Comparison,
    Group,
    Spread,
    describe,
    describe_option,
    format_value,
    short_name,
)
from fedpurin.report.figure import Axis, Figure, Kind, Line, Mark, Panel, Remark, Section
from fedpurin.report.parts.accuracy import ACCURACY_AXIS, both_ways, quiet_first, reference
from fedpurin.report.parts.overview import final_accuracy
from fedpurin.report.read import Run
from fedpurin.report.style import Style, categorical
from fedpurin.report.table import Numbers


def mean_density(run: Run) -> float:
    """Share of the shared parameters that are critical, mean over clients and rounds."""
    values = run.metrics.get("mask/density", np.empty(0)) if run.uses_masks else np.empty(0)
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


MEASURES: tuple[tuple[str, str, Kind, Callable[[Run], float]], ...] = (
    ("accuracy", "Personalised accuracy", "share", final_accuracy),
    ("density", "Mask density", "share", mean_density),
    ("bytes", "Bytes a client and round", "bytes", both_ways),
)


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
        f"Final figures against {x}, mean over seeds.{hint}",
        [by_option(comparison, x), *trade_off(comparison, x)],
    )


def by_option(comparison: Comparison, x: str) -> Figure:
    """Accuracy, density and bytes as x grows; what does not have the option is a level."""
    values = comparison.swept[x]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    series, without = _series(comparison, x)
    styles = _styles(series, without)
    rows: list[list[Any]] = []
    panels = []
    for name, title, kind, measure in MEASURES:
        marks: list[Mark] = []
        for label, groups in series.items():
            spreads = [group.spread(measure) for group in groups]
            places = [_value(group, x) for group in groups]
            rows += [[name, label, place, s.mean, s.std, s.count] for place, s in zip(places, spreads, strict=True)]
            at = [float(place) if numeric else values.index(place) for place in places]
            if any(math.isfinite(spread.mean) for spread in spreads):
                marks.append(_line(label, at, spreads, styles[label]))
        for group in without:
            spread = group.spread(measure)
            rows.append([name, group.full_label, None, spread.mean, spread.std, spread.count])
            if math.isfinite(spread.mean) and (name == "accuracy" or spread.mean > 0):
                marks.append(reference(group, spread.mean))
        if any(isinstance(mark, Line) for mark in marks):
            panels.append(Panel(_x_axis(x, values, numeric), Axis(title, kind), quiet_first(marks)))
    return Figure(
        "by_option",
        f"Accuracy, density and bytes against {short_name(x)}",
        f"x is {x}. Bands are ± one sample standard deviation over seeds; levels are methods without this option.",
        panels,
        Numbers(("figure", "label", x, "mean", "std", "seeds"), rows),
    )


def trade_off(comparison: Comparison, x: str) -> list[Figure]:
    """Accuracy against density and against bytes, points joined in the order of x."""
    series, without = _series(comparison, x)
    styles = _styles(series, without)
    rows: list[list[Any]] = []
    panels = []
    for name, title, kind, measure in MEASURES[1:]:
        marks: list[Mark] = []
        for label, groups in series.items():
            cost, gain = [group.spread(measure) for group in groups], [group.spread(final_accuracy) for group in groups]
            notes = [describe_option(x, _value(group, x)) for group in groups]
            rows += [[name, label, note, c.mean, g.mean] for note, c, g in zip(notes, cost, gain, strict=True)]
            if sum(math.isfinite(spread.mean) for spread in cost) > 1:
                marks.append(_line(label, [spread.mean for spread in cost], gain, styles[label], notes))
        marks += [
            reference(group, spread.mean)
            for group in without
            if math.isfinite((spread := group.spread(final_accuracy)).mean) and marks
        ]
        if marks:
            panels.append(Panel(Axis(title, kind), ACCURACY_AXIS, quiet_first(marks)))
    if not panels:
        return []
    return [
        Figure(
            "trade_off",
            "What sparsity costs",
            f"Final accuracy against mask density and against bytes, joined in the order of {x}.",
            panels,
            Numbers(("figure", "label", x, "cost_mean", "accuracy_mean"), rows),
        )
    ]


def _series(comparison: Comparison, x: str) -> tuple[dict[str, list[Group]], list[Group]]:
    """Groups that differ in x only, by what they have in common, and those that do not have the option."""
    series: dict[str, list[Group]] = defaultdict(list)
    without = []
    swept = comparison.swept
    for group in comparison.groups:
        everything = {**group.options, **group.setting_options}
        if x != "method" and x not in everything:
            without.append(group)
            continue
        common = {option: value for option, value in everything.items() if option in swept and option != x}
        shown = {option: value for option, value in common.items() if _varies_beside(comparison, group, option, x)}
        head = "" if x == "method" else group.method
        series[" ".join(part for part in (head, describe(shown)) if part) or "all methods"].append(group)
    order = swept[x]
    return {
        label: sorted(groups, key=lambda group: order.index(_value(group, x))) for label, groups in series.items()
    }, without


def _varies_beside(comparison: Comparison, group: Group, option: str, x: str) -> bool:
    """Whether naming this option is needed to tell the group's series from others of its method."""
    peers = [peer for peer in comparison.groups if x == "method" or peer.method == group.method]
    values = {repr({**peer.options, **peer.setting_options}.get(option)) for peer in peers}
    return len(values) > 1


def _styles(series: dict[str, list[Group]], without: list[Group]) -> dict[str, Style]:
    """Looks for series: a method's own colour where it has one alone, fresh ones otherwise."""
    taken = {group.style.colour for group in without}
    fresh = (style for index in range(1000) if (style := categorical(index)).colour not in taken or index >= 6)
    return {label: Style("muted", "dash", "x") if label == "local" else next(fresh) for label in series}


def _value(group: Group, x: str) -> Any:
    return group.method if x == "method" else {**group.options, **group.setting_options}[x]


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
