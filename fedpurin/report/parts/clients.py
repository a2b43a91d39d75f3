"""Part 4: how the headline spreads over clients, who holds which classes, who gains and who loses against `local`."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedpurin.report.comparison import Comparison, Group
from fedpurin.report.figure import Axis, Box, Figure, Grid, Level, Line, Mark, Panel, Points, Remark, Section, positions
from fedpurin.report.headline import Headline
from fedpurin.report.paired import by_client
from fedpurin.report.parts.accuracy import MAX_PANELS, quiet_first
from fedpurin.report.parts.overview import headline_axis, label_columns
from fedpurin.report.read import Partition
from fedpurin.report.style import REFERENCE, Style
from fedpurin.report.table import Cell, Numbers, Table

MAX_BUBBLE_CLIENTS = 40
MAX_BOX_POINTS = 400
SAME = 1e-9  # accuracies closer than this are equal: they are means of the same 0s and 1s


def section(comparison: Comparison) -> Section:
    items: list[Figure | Table | Remark] = []
    if any(run.final for group in comparison.groups for run in group.runs):
        items += distributions(comparison)
    else:
        items.append(Remark("No run has a usable clients.csv, so nothing can be said about single clients."))
    items += class_counts(comparison)
    items += gains(comparison)
    return Section("clients", "Client by client", "A mean hides who pays for it.", items)


def distributions(comparison: Comparison) -> list[Figure]:
    """One box a group: every client's final value, seeds together."""
    head = comparison.judged_by
    rows: list[list[Any]] = []
    panels = []
    for setting, groups in comparison.judged.items():
        shown = [group for group in groups if group.drawn]
        for group in groups:
            for run in group.runs:
                values = run.final.get(head.column, ())
                rows += [
                    [*label_columns(group), run.seed, int(client_id), value]
                    for client_id, value in zip(run.client_ids, values, strict=False)
                ]
        boxes = [_box(position, group) for position, group in enumerate(shown)]
        names = Axis("", categories=tuple(group.label for group in shown))
        panels.append(Panel(headline_axis(head), names, boxes, setting, rows=max(0.6, 0.16 + 0.12 * len(shown))))
    return [
        Figure(
            f"client_{head.key}",
            f"{head.title} of every client",
            f"Final {head.subject}{head.direction}, a point a client and seed. Boxes span the quartiles, bars are medians.",
            panels[:MAX_PANELS],
            Numbers(("setting", "label", "seed", "client", head.key), rows),
            legend=False,
            columns=2,
        )
    ]


def class_counts(comparison: Comparison) -> list[Figure | Remark]:
    """Who holds which classes: bubbles, or a grid where there are many clients. One seed of each setting."""
    rows: list[list[Any]] = []
    panels = []
    has_classes = False  # targets that are numbers have one kind of sample
    for setting, groups in comparison.by_setting.items():
        found = next(((run, run.partition) for group in groups for run in group.runs if run.partition), None)
        if found is None:
            continue
        run, partition = found
        has_classes = has_classes or len(partition.class_names) > 1
        title = f"{setting}, seed {run.seed}" if setting else f"seed {run.seed}"
        panels.append(_partition_panel(partition, title))
        for client, (train, test) in enumerate(zip(partition.train, partition.test, strict=True)):
            rows += [
                [setting, run.seed, client, name, int(held), int(tested)]
                for name, held, tested in zip(partition.class_names, train, test, strict=True)
            ]
    if not panels:
        return [Remark("No run folder has a partition.json, so class counts cannot be shown.")]
    return [
        Figure(
            "partition",
            "Who holds which classes" if has_classes else "How many samples each client holds",
            f"Training samples by client{' and class' if has_classes else ''}; the area of a bubble is their number.",
            panels[:MAX_PANELS],
            Numbers(("setting", "seed", "client", "class", "train_samples", "test_samples"), rows),
            legend=False,
            columns=2,
        )
    ]


def gains(comparison: Comparison) -> list[Figure | Table | Remark]:
    """How much better each client is than when trained alone: same seed, same data, same initial weights."""
    head = comparison.judged_by
    curves: list[list[Any]] = []
    panels, blocks, summary = [], [], []
    for setting, groups in comparison.by_setting.items():
        local = comparison.local(setting)
        if local is None:
            continue
        marks: list[Mark] = [Level("", 0.0, REFERENCE)]
        cells = []
        for group in groups:
            paired = _paired_gains(group, local)
            if group is local or not paired:
                continue
            gain = np.array([value for _, _, value in paired])
            curves += [[*label_columns(group), seed, client, value] for seed, client, value in paired]
            won, lost = int((gain > SAME).sum()), int((gain < -SAME).sum())
            values = [gain.mean(), gain.min(), float(np.median(gain)), gain.max()]
            summary.append([*label_columns(group), won, lost, len(gain) - won - lost, *values])
            counts = [Cell(str(count)) for count in (won, lost, len(gain) - won - lost)]
            cells.append([Cell(group.label), *counts, *(Cell(_signed(value, head)) for value in values)])
            marks.append(_gain_line(group, paired))
        if cells:
            blocks.append((setting, cells))
            share = Axis("Clients, from most lost to most gained", "share")
            gained = "percentage points" if head.is_accuracy else f"{head.name}{' less' if head.mode == 'min' else ''}"
            y = Axis(f"Gain over local ({gained})", "points" if head.is_accuracy else "number")
            panels.append(Panel(share, y, quiet_first(marks), setting))
    if not panels:
        having = "" if head == Headline() else f" that have {head.subject}"
        return [Remark(f"Who gained and who lost needs runs of method=local with the same seeds and setting{having}.")]
    header = ("Method", "Gained", "Lost", "Same", "Mean", "Worst", "Median", "Best")
    return [
        Figure(
            "gains",
            "Who gained and who lost against training alone",
            f"{_minus(head)}, same seed, sorted within each method. "
            "Where a line crosses zero, that share of the clients would have done better alone.",
            panels[:MAX_PANELS],
            Numbers(("setting", "label", "seed", "client", "gain"), curves),
        ),
        Table(
            "gains_summary",
            "Clients that gained and lost against training alone",
            f"{_minus(head)}: clients by its sign, seeds together.",
            header,
            blocks,
            Numbers(("setting", "label", "gained", "lost", "same", "mean", "worst", "median", "best"), summary),
            header_groups=(
                ("", 1),
                ("Clients", 3),
                (f"Gain ({'percentage points' if head.is_accuracy else head.name})", 4),
            ),
        ),
    ]


def _box(position: int, group: Group) -> Box:
    pairs = [
        (float(value), f"client {int(client_id)}, seed {run.seed}")
        for run in group.runs
        for client_id, value in zip(run.client_ids, run.final.get(run.judged_by.column, ()), strict=False)
    ]
    step = math.ceil(len(pairs) / MAX_BOX_POINTS) if pairs else 1
    pairs = sorted(pairs)[::step]  # a sorted thinning keeps the quartiles
    return Box(group.label, position, np.array([value for value, _ in pairs]), group.style, [note for _, note in pairs])


def _partition_panel(partition: Partition, title: str) -> Panel:
    clients, classes = partition.train.shape
    if clients > MAX_BUBBLE_CLIENTS or classes > MAX_BUBBLE_CLIENTS:
        grid = Grid("training samples", partition.train, "count", low=0.0)
        return Panel(Axis("Class", "count"), Axis("Client", "count"), [grid], title, rows=1.5)
    at = np.argwhere(partition.train > 0)
    held = partition.train[tuple(at.T)]
    notes = [
        f"client {client}, class {html.escape(partition.class_names[label])}<br><b>{int(count):,} training samples</b>"
        for (client, label), count in zip(at, held, strict=True)
    ]
    bubbles = Points(
        "", at[:, 1].astype(float), at[:, 0].astype(float), Style("c0"), size=held / held.max(), notes=notes
    )
    return Panel(
        Axis("Class", categories=partition.class_names),
        Axis("Client", categories=tuple(str(client) for client in range(clients))),
        [bubbles],
        title,
        rows=max(1.0, clients / 14),
    )


def _paired_gains(group: Group, local: Group) -> list[tuple[int, int, float]]:
    """(seed, client, gain) of the seeds that both have."""
    alone = {run.seed: by_client(run) for run in local.runs}
    return [
        (run.seed, client, run.judged_by.sign * (value - alone[run.seed][client]))
        for run in group.runs
        for client, value in by_client(run).items()
        if client in alone.get(run.seed, {})
    ]


def _gain_line(group: Group, paired: Sequence[tuple[int, int, float]]) -> Line:
    ordered = sorted(paired, key=lambda item: item[2])
    share = (positions(len(ordered)) + 0.5) / len(ordered)
    notes = [f"client {client}, seed {seed}" for seed, client, _ in ordered]
    scale = 100 if group.runs[0].judged_by.is_accuracy else 1
    return Line(group.label, share, scale * np.array([gain for *_, gain in ordered]), group.style, notes=notes)


def _minus(head: Headline) -> str:
    if head.mode == "min":
        return f"Each client's final {head.name} under local minus its own"
    return f"Each client's final {head.name} minus its own under local"


def _signed(value: float, head: Headline) -> str:
    text = head.write(abs(value), 1)
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"
