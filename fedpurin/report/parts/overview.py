"""Part 1, the paper's table: accuracy over seeds, bytes a client and round, and what sparse exchange saves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from fedpurin.report.comparison import Comparison, Group, Spread
from fedpurin.report.figure import Axis, Section
from fedpurin.report.headline import MEASURED_ON, Headline
from fedpurin.report.paired import Interval, difference
from fedpurin.report.read import Array, Run
from fedpurin.report.table import Cell, Numbers, Table, format_bytes, format_in, format_share, unit_of


def headline_axis(judged_by: Headline) -> Axis:
    return Axis(judged_by.heading, judged_by.kind)


def final_value(run: Run) -> float:
    """Mean of the headline over clients after the last evaluated round."""
    return run.last(run.judged_by.column)


def best_value(run: Run) -> float:
    """The best round's mean over clients, chosen on the test data it is measured on: an upper end."""
    values = run.headline[np.isfinite(run.headline)]
    best = np.min if run.judged_by.mode == "min" else np.max
    return float(best(values)) if len(values) else math.nan


def bytes_per_client_round(run: Run, direction: str) -> float:
    """Encoded bytes that a participant sent (`up`) or got (`down`), mean over the run's participations."""
    return run.total(f"bytes/{direction}") / participations(run)


def participations(run: Run) -> float:
    """How often a client took part, all rounds together."""
    return run.total("clients/participating")


def shared_reduction(run: Run) -> float:
    """1 − sent / dense exchange of the part that the method shares, both directions, as the ledger counted them."""
    return _reduction(run, 1.0)


def reduction(run: Run) -> float:
    """The same against dense exchange of the whole model: one reference for all methods."""
    return _reduction(run, run.whole_share)


def _reduction(run: Run, larger: float) -> float:
    dense = larger * (run.total("bytes/dense_up") + run.total("bytes/dense_down"))
    sent = run.total("bytes/up") + run.total("bytes/down")
    return 1 - sent / dense if dense > 0 and sent > 0 else math.nan


def sparse_value(run: Run) -> float:
    """The sparse model that was sent, after the last evaluated round: what the paper of FedPURIN reports."""
    return run.last(run.judged_by.sparse)


def value_within(run: Run, budget: float) -> float:
    """The headline of the last round that a client could pay for with `budget` bytes, up and down together."""
    values = run.headline
    affordable = np.isfinite(values) & (bytes_so_far(run) <= budget)
    return float(values[affordable][-1]) if affordable.any() else math.nan


def bytes_so_far(run: Run) -> Array:
    """Bytes up and down after each round, shared out over the clients."""
    nothing = np.zeros(len(run.rounds))
    both = sum(np.nan_to_num(run.metrics.get(f"bytes/{direction}", nothing)) for direction in ("up", "down"))
    return np.cumsum(both) / max(len(run.client_ids), 1)


TRAFFIC = "Bytes a client and round"


@dataclass(frozen=True)
class Measure:
    """A column: how it is measured on a run, its head for readers, and the heading over it."""

    name: str
    title: str
    of: Callable[[Run], float]
    group: str = ""
    digits: int = 2
    """Of a share in percent."""
    is_bytes: bool = False
    judged_by: Headline | None = None
    """The headline that it is a value of: written with ± over seeds."""

    def write(self, spread: Spread, unit: tuple[str, float]) -> str:
        if self.is_bytes:
            return format_in(spread.mean, unit[1])
        if self.judged_by is not None:
            return self.judged_by.write_spread(spread.mean, spread.std, self.digits)
        return format_share(spread.mean, self.digits)


REDUCTION = Measure("reduction", "Reduction (%)", reduction, TRAFFIC, digits=1)
SHARED_REDUCTIONS = (
    replace(REDUCTION, title="Whole", group="Reduction (%)"),
    Measure("shared_reduction", "Part", shared_reduction, "Reduction (%)", digits=1),
)
"""Where a method shares a part of the model only."""


def section(comparison: Comparison) -> Section:
    head = comparison.judged_by
    return Section(
        "table",
        f"{head.title} and traffic",
        f"{head.heading} ({MEASURED_ON[head.variant]}, mean over clients) and encoded bytes a client and round. "
        "Mean ± sample standard deviation over seeds.",
        [comparison_table(comparison)],
    )


def measures(comparison: Comparison) -> list[Measure]:
    """The columns that these runs can fill."""
    budget = comparison.at_bytes or common_budget(comparison)
    head = comparison.judged_by
    shares_parts = any(run.whole_share > 1 for group in comparison.groups for run in group.runs)
    over = f"{head.heading}{head.unit}{head.direction}"
    chosen = [Measure("final", "Final", final_value, over)]
    if budget > 0:
        chosen.append(Measure("at_bytes", f"At {format_bytes(budget)}", lambda run: value_within(run, budget), over))
    chosen.append(Measure("best", "Best round", best_value, over))
    if head.column != head.sparse and any(group.has(head.sparse) for group in comparison.groups):
        reported = "As in paper" if head.is_accuracy else ""
        chosen.append(Measure("sparse", f"Sparse{head.unit}", sparse_value, reported))
    return [
        *(replace(measure, name=f"{head.key}_{measure.name}", judged_by=head) for measure in chosen),
        Measure("bytes_up", "Up", lambda run: bytes_per_client_round(run, "up"), TRAFFIC, is_bytes=True),
        Measure("bytes_down", "Down", lambda run: bytes_per_client_round(run, "down"), TRAFFIC, is_bytes=True),
        *(SHARED_REDUCTIONS if shares_parts else [REDUCTION]),
    ]


def comparison_table(comparison: Comparison) -> Table:
    """One row a group, settings as blocks, the best final value of each in bold."""
    head = comparison.judged_by
    columns = measures(comparison)
    every = {group: {measure.name: group.spread(measure.of) for measure in columns} for group in comparison.groups}
    units = {
        measure.name: unit_of(spread[measure.name].mean for spread in every.values()) if measure.is_bytes else ("", 1.0)
        for measure in columns
    }
    blocks, rows = [], []
    for setting, groups in comparison.by_setting.items():
        behind = _behind(groups, head)
        cells = []
        for group in groups:
            spread = every[group]
            written = [measure.write(spread[measure.name], units[measure.name]) for measure in columns]
            line = [Cell(text) for text in written]
            line[0] = Cell(written[0], len(groups) > 1 and written[0] != "–" and _is_best(behind[group]))
            line.insert(1, Cell(_interval(behind[group], head)))
            cells.append([Cell(group.label + ("" if group.is_complete else " †")), Cell(str(len(group.runs))), *line])
            values = [value for measure in columns for value in (spread[measure.name].mean, spread[measure.name].std)]
            against = behind[group] or Interval(math.nan, math.nan, math.nan, 0)
            identity = (setting, group.method, group.label, len(group.runs), group.is_complete)
            rows.append([*identity, *values, against.mean, against.low, against.high])
        blocks.append((setting, cells))
    figures_of = [f"{measure.name}_{kind}" for measure in columns for kind in ("mean", "std")]
    against_best = ("to_best_mean", "to_best_low", "to_best_high")
    has_sparse = any(measure.of is sparse_value for measure in columns)
    has_parts = any(measure.of is shared_reduction for measure in columns)
    stopped = any(not group.is_complete for group in comparison.groups)
    without = [] if head == Headline() else list(dict.fromkeys(g.label for g in comparison.groups if not g.is_judged))
    caption = (
        f"Bold is the {head.highest} final mean and every one whose difference to it (To the best: "
        f"{'percentage points, ' if head.is_accuracy else ''}paired, 95 % bootstrap interval over seeds and clients) is "
        "not told from zero; no other column is judged. Up and down are as encoded; the reduction is against dense "
        "exchange of the whole model"
        + (" and of the part that the method shares" if has_parts else "")
        + ". At a number of bytes: the last round that a client could pay for, up and "
        "down. Best round: picked on the test data, read it as an upper end."
        + (" Sparse is the final model as sent, which FedPURIN's paper reports." if has_sparse else "")
        + (f" –: {head.subject} was not recorded of {_listed(without)}." if without else "")
        + (" † stopped before its last round." if stopped else "")
    )
    titles = [measure.title + (f" ({units[measure.name][0]})" if measure.is_bytes else "") for measure in columns]
    header = ("Method", "Seeds", titles[0], f"To the best{' (pp)' if head.is_accuracy else ''}", *titles[1:])
    over = ["", "", columns[0].group, columns[0].group, *(measure.group for measure in columns[1:])]
    numbers = Numbers(("setting", "method", "label", "seeds", "complete", *figures_of, *against_best), rows)
    return Table(
        "comparison",
        f"Methods on {comparison.data}",
        caption,
        header,
        blocks,
        numbers,
        header_groups=[
            (name, span)
            for name, several in groupby(over)
            for span in ([len(list(several))] if name else [1] * len(list(several)))
        ],
    )


def common_budget(comparison: Comparison) -> float:
    """The default number of bytes: what the thriftiest sending group spends in all, if all others can afford a tenth
    of their evaluated rounds by then, else what these cost the dearest group; so that each has a value."""
    sending = [group for group in comparison.groups if group.spread(_spent).mean > 0]
    if not sending:
        return 0.0
    return max(
        min(group.spread(_spent).mean for group in sending),
        *(float(_tenth(run)) for group in sending for run in group.runs),
    )


def _spent(run: Run) -> float:
    return float(bytes_so_far(run)[-1])


def _tenth(run: Run) -> float:
    """Bytes of a client up to a tenth of the evaluated rounds, at least one."""
    evaluated = np.flatnonzero(np.isfinite(run.headline))
    return float(bytes_so_far(run)[evaluated[math.ceil(len(evaluated) / 10) - 1]]) if len(evaluated) else 0.0


def _behind(groups: Sequence[Group], head: Headline) -> dict[Group, Interval | None]:
    """Each group's paired difference to the one with the best final value; None for that one itself."""
    means = {group: head.sign * group.spread(final_value).mean for group in groups}
    known = [group for group in groups if math.isfinite(means[group])]
    nothing = Interval(math.nan, math.nan, math.nan, 0)
    if len(known) < 2:
        return dict.fromkeys(groups, nothing)
    leader = max(known, key=lambda group: means[group])
    return {group: None if group is leader else difference(group, leader) for group in groups}


def _is_best(behind: Interval | None) -> bool:
    return behind is None or (behind.pairs > 0 and not behind.excludes_zero)


def _interval(behind: Interval | None, head: Headline) -> str:
    if behind is None:
        return "best"
    if not behind.pairs:
        return "–"
    mean, low, high = map(head.write_difference, (behind.mean, behind.low, behind.high))
    return f"{mean} [{low}, {high}]"


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def label_columns(group: Group) -> list[str]:
    """The first columns of every figure's numbers."""
    return [group.setting, group.label]
