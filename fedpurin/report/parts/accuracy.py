"""Part 2: the headline (accuracy) against rounds, against cumulative bytes, and the Pareto picture of both."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedpurin.metrics import measured_stems
from fedpurin.report.comparison import Comparison, Curve, Group, Spread
from fedpurin.report.figure import Axis, Figure, Level, Line, Mark, Panel, Points, Remark, Section
from fedpurin.report.headline import Headline
from fedpurin.report.parts.overview import bytes_per_client_round, final_value, headline_axis, label_columns
from fedpurin.report.read import Array, Run
from fedpurin.report.style import Style
from fedpurin.report.table import Numbers

MAX_PANELS = 6
ROUND = Axis("Round", "count")
SEED_BAND = "Lines are means over seeds, bands ± one sample standard deviation."


def section(comparison: Comparison) -> Section:
    items: list[Figure | Remark] = [accuracy_by_round(comparison)]
    if others := measured_by_round(comparison):
        items.append(others)
    if any(group.has("bytes/up") and group.spread(_total_bytes).mean > 0 for group in comparison.groups):
        items += [accuracy_by_bytes(comparison), pareto(comparison)]
    else:
        items.append(Remark("No run counted any bytes, so there is nothing to set accuracy against."))
    return Section(
        "accuracy",
        f"{comparison.judged_by.title} over rounds and bytes",
        "How fast each method learns, and what it pays on the wire for it." + _hidden(comparison),
        items,
    )


def accuracy_by_round(comparison: Comparison) -> Figure:
    """The headline after each round, a panel for each setting."""
    head = comparison.judged_by
    rows: list[list[Any]] = []
    panels = []
    for setting, groups in comparison.judged.items():
        marks = []
        for group in groups:
            curve = group.curve(head.column)
            marks.append(_line(group, curve.rounds + 1, curve))
            rows += _rows(group, curve)
        panels.append(Panel(ROUND, headline_axis(head), quiet_first(marks), setting))
    return Figure(
        f"{head.key}_by_round",
        f"{head.title} by round",
        f"Mean {head.subject} over the clients{head.direction}. {SEED_BAND}",
        panels[:MAX_PANELS],
        Numbers(("setting", "label", "round", f"{head.key}_mean", f"{head.key}_std", "seeds"), rows),
        columns=3,
    )


def measured_by_round(comparison: Comparison) -> Figure | None:
    """What runs measured of the clients' own models beside the headline."""
    recorded = {name for group in comparison.groups for run in group.runs for name in run.metrics if run.has(name)}
    others = [head for head in map(Headline, measured_stems(recorded)) if head.column != comparison.judged_by.column]
    rows: list[list[Any]] = []
    panels = []
    for other in others:
        name = other.column
        for setting, groups in comparison.by_setting.items():
            curves = [(group, group.curve(name)) for group in groups if group.has(name)]
            rows += [[other.name, *row] for group, curve in curves for row in _rows(group, curve)]
            marks = [_line(group, curve.rounds + 1, curve) for group, curve in curves]
            if marks:
                panels.append(Panel(ROUND, headline_axis(other), quiet_first(marks), setting))
    if not panels:
        return None
    return Figure(
        "measured_by_round",
        "Further values by round",
        f"What validation_step logged of the clients' own models, means over the clients. {SEED_BAND}",
        panels[:MAX_PANELS],
        Numbers(("value", "setting", "label", "round", "mean", "std", "seeds"), rows),
        columns=3,
    )


def accuracy_by_bytes(comparison: Comparison) -> Figure:
    """The headline against all bytes so far, up and down, of a client."""
    head = comparison.judged_by
    rows: list[list[Any]] = []
    panels = []
    for setting, groups in comparison.judged.items():
        marks: list[Mark] = []
        for group in groups:
            curve, spent = group.curve(head.column), _cumulative_bytes(group)
            at = np.isin(spent.rounds, curve.rounds)
            sent = spent.mean[at]
            rows += [
                [*label_columns(group), int(number) + 1, so_far, value]
                for number, so_far, value in zip(curve.rounds, sent, curve.mean, strict=False)
            ]
            if len(sent) and sent[-1] > 0:
                marks.append(_line(group, np.where(sent > 0, sent, math.nan), curve))
            elif len(curve.mean):
                marks.append(reference(group, group.spread(final_value)))
        axis = Axis("Bytes so far, a client", "bytes", log=_spans_decades(marks))
        panels.append(Panel(axis, headline_axis(head), quiet_first(marks), setting))
    return Figure(
        f"{head.key}_by_bytes",
        f"{head.title} by bytes sent",
        "Bytes up and down, added up over the rounds and shared out over the clients. "
        f"{SEED_BAND} Dashed level: a method that sends nothing, at its final value.",
        panels[:MAX_PANELS],
        Numbers(("setting", "label", "round", "bytes_so_far_mean", f"{head.key}_mean"), rows),
    )


def pareto(comparison: Comparison) -> Figure:
    """The final headline against bytes a client and round; the front joins what no other method beats in both."""
    head = comparison.judged_by
    rows: list[list[Any]] = []
    panels = []
    for setting, groups in comparison.judged.items():
        marks: list[Mark] = []
        points: list[tuple[float, float]] = []
        for group in groups:
            value, traffic = group.spread(final_value), group.spread(both_ways)
            rows.append([*label_columns(group), traffic.mean, traffic.std, value.mean, value.std, value.count])
            if not math.isfinite(value.mean):
                continue
            if not traffic.mean > 0:
                marks.append(reference(group, value))
                points.append((0.0, head.sign * value.mean))
                continue
            points.append((traffic.mean, head.sign * value.mean))
            marks.append(
                Points(
                    group.label, np.array([traffic.mean]), np.array([value.mean]), group.style,
                    x_error=np.array([traffic.std]), y_error=np.array([value.std]),
                )
            )  # fmt: skip
        # what sends nothing cannot be drawn on the axis, but whoever does no better for more is not on the front
        front = [point for point in pareto_front(points) if point[0] > 0]
        if len(front) > 1:
            x, y = np.array(front).T
            marks.insert(0, Line("Pareto front", x, head.sign * y, Style("muted", "dot", quiet=True)))
        axis = Axis("Bytes a client and round", "bytes", log=_spans_decades(marks))
        panels.append(Panel(axis, headline_axis(head), quiet_first(marks), setting))
    return Figure(
        "pareto",
        f"{head.title} for bytes",
        f"Final {head.name} against bytes up and down a client and round; bars are ± one sample standard deviation over "
        f"seeds. {'Down' if head.mode == 'min' else 'Up'} and to the left is better; the thin line joins methods that "
        "no other beats in both, training alone at no bytes included.",
        panels[:MAX_PANELS],
        Numbers(
            ("setting", "label", "bytes_mean", "bytes_std", f"{head.key}_mean", f"{head.key}_std", "seeds"),
            rows,
        ),
    )


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, gain) pairs those that no other pair beats or equals in both, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def reference(group: Group, spread: Spread) -> Level:
    """A group that has no place on the x axis, as a level across the panel."""
    return Level(group.label, spread.mean, group.style, spread.std)


def quiet_first(marks: list[Any]) -> list[Any]:
    """Context below what is meant to be seen."""
    return sorted(marks, key=lambda mark: not mark.style.quiet)


def _line(group: Group, x: Array, curve: Curve) -> Line:
    return Line(group.label, x, curve.mean, group.style, curve.low, curve.high)


def _rows(group: Group, curve: Curve) -> list[list[Any]]:
    return [
        [*label_columns(group), int(number) + 1, mean, std, int(count)]
        for number, mean, std, count in zip(curve.rounds, curve.mean, curve.std, curve.count, strict=True)
    ]


def _cumulative_bytes(group: Group) -> Curve:
    """Bytes up and down so far, of a client."""

    def add_up(run: Run, up: Array) -> Array:
        both = np.nan_to_num(up) + np.nan_to_num(run.metrics.get("bytes/down", np.zeros(len(up))))
        return np.cumsum(both) / max(len(run.client_ids), 1)

    return group.curve("bytes/up", add_up)


def both_ways(run: Run) -> float:
    return bytes_per_client_round(run, "up") + bytes_per_client_round(run, "down")


def _total_bytes(run: Run) -> float:
    return run.total("bytes/up") + run.total("bytes/down")


def _spans_decades(marks: list[Mark]) -> bool:
    """Whether x needs a logarithmic axis: series that end ten times apart."""
    ends = [float(np.nanmax(mark.x)) for mark in marks if isinstance(mark, Line | Points)]
    return bool(ends) and max(ends) > 10 * min(ends)


def _hidden(comparison: Comparison) -> str:
    """What the figures leave out, said once."""
    parts = []
    quiet = {group.label for group in comparison.groups if not group.drawn}
    if quiet:
        parts.append(f"{len(quiet)} further variants are grey: the best of each method are in colour.")
    if len(comparison.settings) > MAX_PANELS:
        parts.append(
            f"The first {MAX_PANELS} of {len(comparison.settings)} settings are drawn; the CSV files have all."
        )
    return "".join(f" {part}" for part in parts)
