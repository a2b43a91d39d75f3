"""Part 6: the solver's gap, core and seconds; the ledger by phase and encoding; simulated time where links are set."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any

import numpy as np

from fedpurin.report.comparison import Comparison, Group
from fedpurin.report.figure import Axis, Bars, Figure, Kind, Line, Mark, Panel, Remark, Section
from fedpurin.report.parts.accuracy import MAX_PANELS, ROUND, quiet_first
from fedpurin.report.parts.overview import headline_axis, label_columns, participations
from fedpurin.report.read import Array, Run
from fedpurin.report.style import categorical
from fedpurin.report.table import Numbers

ENTRY = re.compile(r"bytes/(up|down)/([a-z]+)(?:/([a-z_0-9]+))?")
SOLVER: tuple[tuple[str, str, Kind], ...] = (
    ("program/gap", "Worst relative gap", "number"),
    ("clients/mean/program/core", "Core: variables left to the solver", "count"),
    ("clients/mean/program/seconds", "Time a solve", "seconds"),
)
MAX_SETTINGS = 3
TIME = ("network/round_seconds", "network/seconds", "clients/max/network/seconds")


def section(comparison: Comparison) -> Section:
    items: list[Figure | Remark] = [*solver(comparison)] or [Remark("No run solved a program.")]
    items += ledger(comparison) or [Remark("No run counted bytes by phase.")]
    items += simulated_time(comparison) or [
        Remark("No run simulated time: set a link model with network.up_mbps, .down_mbps and .latency_ms.")
    ]
    return Section(
        "costs", "Solver, ledger, time", "What selection and exchange cost, and what they are made of.", items
    )


def solver(comparison: Comparison) -> list[Figure]:
    """Gap, core size and seconds over rounds, a row of panels for each setting."""
    rows: list[list[Any]] = []
    panels = []
    for setting, groups in comparison.by_setting.items():
        for name, title, kind in SOLVER:
            marks: list[Mark] = []
            for group in groups:
                if group.uses_masks and group.has(name):
                    curve = group.curve(name)
                    band = (None, None) if name == "program/gap" else (curve.low, curve.high)
                    marks.append(Line(group.label, curve.rounds + 1, curve.mean, group.style, *band))
                    rows += [
                        [*label_columns(group), name.removeprefix("clients/mean/"), int(number) + 1, mean, std]
                        for number, mean, std in zip(curve.rounds, curve.mean, curve.std, strict=True)
                    ]
            if marks:
                tops = [mark.y if mark.high is None else mark.high for mark in marks if isinstance(mark, Line)]
                highest = max(float(np.nanmax(top)) for top in tops)
                top = 1.1 * highest if highest > 0 else 1e-4  # all proved optimal: a flat line at the bottom
                panels.append(Panel(ROUND, Axis(title, kind, low=0.0, high=top), quiet_first(marks), setting))
    if not panels:
        return []
    return [
        Figure(
            "solver",
            "What the solver did",
            "The worst certified gap of a round's clients; variables that reduction left to the solver and seconds a "
            "solve, mean over clients. Means over seeds.",
            panels[: MAX_SETTINGS * len(SOLVER)],
            Numbers(("setting", "label", "figure", "round", "mean", "std"), rows),
        )
    ]


def ledger(comparison: Comparison) -> list[Figure]:
    """Bytes a client and round by phase and, where recorded, by encoding."""
    by_phase = _stacks(comparison, by_encoding=False)
    figures = [_ledger_figure("ledger_phase", "Bytes by phase", "phase", by_phase, comparison)] if by_phase else []
    by_encoding = _stacks(comparison, by_encoding=True)
    if by_encoding:
        figures.append(_ledger_figure("ledger_encoding", "Bytes by encoding", "encoding", by_encoding, comparison))
    return figures


def simulated_time(comparison: Comparison) -> list[Figure]:
    """The headline against simulated seconds on the wire."""
    head = comparison.judged_by
    rows: list[list[Any]] = []
    panels = []
    for setting, groups in comparison.judged.items():
        marks: list[Mark] = []
        for group in groups:
            name = next((name for name in TIME if group.has(name)), None)
            if name is None:
                continue
            curve, spent = group.curve(head.column), group.curve(name, _add_up)
            at = spent.mean[np.isin(spent.rounds, curve.rounds)]
            marks.append(Line(group.label, at, curve.mean, group.style, curve.low, curve.high))
            rows += [
                [*label_columns(group), int(number) + 1, seconds, value]
                for number, seconds, value in zip(curve.rounds, at, curve.mean, strict=False)
            ]
        if marks:
            x = Axis("Simulated time on the wire", "seconds")
            panels.append(Panel(x, headline_axis(head), quiet_first(marks), setting))
    if not panels:
        return []
    return [
        Figure(
            f"{head.key}_by_time",
            f"{head.title} by simulated time",
            "Time on the wire under the link model, added up over rounds; a round waits for its slowest client.",
            panels[:MAX_PANELS],
            Numbers(("setting", "label", "round", "simulated_seconds", f"{head.key}_mean"), rows),
        )
    ]


Stacks = dict[tuple[str, str], dict[Group, float]]
"""Bytes a client and round, by (direction, phase or encoding) and group."""


def _stacks(comparison: Comparison, *, by_encoding: bool) -> Stacks:
    stacks: Stacks = defaultdict(dict)
    for group in comparison.groups:
        for run in group.runs:
            for name in run.metrics:
                match = ENTRY.fullmatch(name)
                if match and bool(match[3]) == by_encoding and run.total(name) != 0:
                    part = (match[1], match[3] if by_encoding else match[2])
                    share = run.total(name) / participations(run) / len(group.runs)
                    stacks[part][group] = stacks[part].get(group, 0.0) + share
    return stacks


def _ledger_figure(key: str, title: str, what: str, stacks: Stacks, comparison: Comparison) -> Figure:
    sending = [group for group in comparison.groups if group.drawn and any(group in stack for stack in stacks.values())]
    names = sorted({name for _, name in stacks})
    panels = []
    for setting in dict.fromkeys(group.setting for group in sending):
        shown = [group for group in sending if group.setting == setting]
        names_here = Axis("", categories=tuple(group.label for group in shown))
        for direction in ("up", "down"):
            bars = [
                Bars(name, np.array([stacks[direction, name].get(group, 0.0) for group in shown]), categorical(index))
                for index, name in enumerate(names)
                if (direction, name) in stacks
            ]
            head = ", ".join(part for part in (direction.capitalize(), setting) if part)
            rows_high = max(0.7, 0.3 + 0.1 * len(shown))
            panels.append(Panel(Axis("Bytes a client and round", "bytes"), names_here, bars, head, rows=rows_high))
    rows = [
        [*label_columns(group), direction, name, value]
        for (direction, name), stack in sorted(stacks.items())
        for group, value in stack.items()
    ]
    return Figure(
        key,
        title,
        f"Encoded bytes a client and round by {what}, as the ledger counted them; means over seeds.",
        panels[: 2 * MAX_SETTINGS],
        Numbers(("setting", "label", "direction", what, "bytes_per_client_round"), rows),
        columns=2,
    )


def _add_up(_: Run, seconds: Array) -> Array:
    total = np.cumsum(np.nan_to_num(seconds))
    return np.where(np.isfinite(seconds), total, math.nan)
