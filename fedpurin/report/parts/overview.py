"""Part 1, the paper's table: accuracy over seeds, bytes a client and round, and what sparse exchange saves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedpurin.report.comparison import Comparison, Group, Spread
from fedpurin.report.figure import Section
from fedpurin.report.read import Run
from fedpurin.report.table import Cell, Numbers, Table, format_bytes, format_share, format_spread

ACCURACY = "accuracy/personalized"


def final_accuracy(run: Run) -> float:
    """Mean over clients after the last evaluated round."""
    return run.last(ACCURACY)


def best_accuracy(run: Run) -> float:
    """The best round's mean over clients, chosen on the test data it is measured on: an upper end."""
    values = run.metrics.get(ACCURACY, np.full(1, math.nan))
    return float(np.nanmax(values)) if np.isfinite(values).any() else math.nan


def bytes_per_client_round(run: Run, direction: str) -> float:
    """Encoded bytes that a participant sent (`up`) or got (`down`), mean over the run's participations."""
    return run.total(f"bytes/{direction}") / participations(run)


def participations(run: Run) -> float:
    """How often a client took part, all rounds together."""
    return run.total("clients/participating")


def reduction(run: Run) -> float:
    """1 − sent / dense exchange of the same shared parameters, both directions, as the ledger counted them."""
    dense = run.total("bytes/dense_up") + run.total("bytes/dense_down")
    sent = run.total("bytes/up") + run.total("bytes/down")
    return 1 - sent / dense if dense > 0 and sent > 0 else math.nan


@dataclass(frozen=True)
class Measure:
    """A column: how it is measured on a run, written for readers, and whether more is better."""

    name: str
    title: str
    of: Callable[[Run], float]
    write: Callable[[Spread], str]
    more_is_better: bool


MEASURES = (
    Measure("accuracy_final", "Final accuracy (%)", final_accuracy, lambda s: format_spread(s.mean, s.std), True),
    Measure("accuracy_best", "Best round (%)", best_accuracy, lambda s: format_spread(s.mean, s.std), True),
    Measure("bytes_up", "Up", lambda run: bytes_per_client_round(run, "up"), lambda s: format_bytes(s.mean), False),
    Measure(
        "bytes_down", "Down", lambda run: bytes_per_client_round(run, "down"), lambda s: format_bytes(s.mean), False
    ),
    Measure("reduction", "Reduction (%)", reduction, lambda s: format_share(s.mean, 1), True),
)


def section(comparison: Comparison) -> Section:
    return Section(
        "table",
        "Accuracy and traffic",
        "Personalised accuracy (each client on its own test data, mean over clients) and encoded bytes a client and "
        "round. Mean ± sample standard deviation over seeds.",
        [comparison_table(comparison)],
    )


def comparison_table(comparison: Comparison) -> Table:
    """One row a group, settings as blocks, the best of each column and setting in bold."""
    blocks, rows = [], []
    for setting, groups in comparison.by_setting.items():
        spreads = [{measure.name: group.spread(measure.of) for measure in MEASURES} for group in groups]
        best = {measure.name: _best(measure, [spread[measure.name] for spread in spreads]) for measure in MEASURES}
        cells = []
        for group, spread in zip(groups, spreads, strict=True):
            name = group.label + ("" if group.is_complete else " †")
            cells.append(
                [Cell(name), Cell(str(len(group.runs)))]
                + [
                    Cell(text := measure.write(spread[measure.name]), text == best[measure.name] and text != "–")
                    for measure in MEASURES
                ]
            )
            figures = [value for measure in MEASURES for value in (spread[measure.name].mean, spread[measure.name].std)]
            rows.append([setting, group.method, group.label, len(group.runs), group.is_complete, *figures])
        blocks.append((setting, cells))
    figures_of = (f"{measure.name}_{kind}" for measure in MEASURES for kind in ("mean", "std"))
    columns = ("setting", "method", "label", "seeds", "complete", *figures_of)
    stopped = any(not group.is_complete for group in comparison.groups)
    caption = (
        "Best of each column in bold (bytes: of the methods that send any). Up and down are bytes a client and round, "
        "as encoded; the reduction is against dense exchange of the same parameters. "
        "The best round is picked on the test data: read it as an upper end."
        + (" † stopped before its last round." if stopped else "")
    )
    header = ("Method", "Seeds", *(measure.title for measure in MEASURES))
    return Table("comparison", f"Methods on {comparison.data}", caption, header, blocks, Numbers(columns, rows))


def _best(measure: Measure, spreads: Sequence[Spread]) -> str:
    """The best value as it is written, so that what looks equal is bold together; '' if nothing competes."""
    competing = [
        spread for spread in spreads if math.isfinite(spread.mean) and (measure.more_is_better or spread.mean > 0)
    ]
    if len(spreads) < 2 or not competing:
        return ""
    pick = max if measure.more_is_better else min
    return measure.write(pick(competing, key=lambda spread: spread.mean))


def label_columns(group: Group) -> list[str]:
    """The first columns of every figure's numbers."""
    return [group.setting, group.label]
