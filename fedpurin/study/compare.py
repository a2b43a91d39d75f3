"""A study's numbers from its rows: means with intervals, paired differences, and whether new runs confirm committed ones.

Owns: what is computed for a cell and for a comparison. Intervals are bootstrap percentiles over seeds and, within
them, clients (report/paired.py). A difference pairs the same client of the same seed; where its interval holds 0, it is
no difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedpurin.report.paired import Interval, bootstrap
from fedpurin.study.plan import Study
from fedpurin.study.results import Results

BYTES_TOLERANCE = 0.01


@dataclass(frozen=True)
class CellNumbers:
    """What the table says of one cell; shares and accuracies as fractions of one."""

    setting: str
    variant: str
    seeds: int
    accuracy: Interval
    between_seeds: float
    """Standard deviation of the seeds' mean accuracies; NaN for one seed."""
    worst: float
    """The worst client's accuracy, mean over seeds."""
    gain: Interval
    """Over the reference, paired; NaN for the reference itself."""
    above: float
    """Share of clients that end above their own result under the reference."""
    below: float
    megabytes: float
    """Sent by all clients and the server together in a run, 10^6 bytes, mean over seeds."""
    network_seconds: float
    diverged: int


@dataclass(frozen=True)
class ContrastNumbers:
    """The difference of two variants in one setting."""

    setting: str
    of: str
    against: str
    difference: Interval

    @property
    def verdict(self) -> str:
        if not self.difference.pairs:
            return "not run"
        if not self.difference.excludes_zero:
            return "no difference"
        return "better" if self.difference.mean > 0 else "worse"


@dataclass(frozen=True)
class Numbers:
    """All that the page says of a study, in numbers."""

    cells: tuple[CellNumbers, ...]
    contrasts: tuple[ContrastNumbers, ...]


def evaluate(study: Study, results: Results) -> Numbers:
    """Every cell that has a run, and every comparison that the study draws, in every setting."""
    cells, contrasts = [], []
    for setting in study.all_settings:
        for variant in study.variants:
            if results.finals(setting, variant):
                cells.append(_cell(study, results, setting, variant))
        for contrast in study.comparisons:
            difference = bootstrap(_gains(results, setting, contrast.of, contrast.against))
            contrasts.append(ContrastNumbers(setting, contrast.of, contrast.against, difference))
    return Numbers(tuple(cells), tuple(contrasts))


def _cell(study: Study, results: Results, setting: str, variant: str) -> CellNumbers:
    finals, runs = results.finals(setting, variant), results.runs_of(setting, variant)
    reference = study.measured_against
    gains = {} if variant == reference else _gains(results, setting, variant, reference)
    every = np.array([gain for values in gains.values() for gain in values])
    return CellNumbers(
        setting=setting,
        variant=variant,
        seeds=len(finals),
        accuracy=bootstrap({seed: list(values.values()) for seed, values in finals.items()}),
        between_seeds=_deviation([float(np.mean(list(values.values()))) for values in finals.values()]),
        worst=float(np.mean([min(values.values()) for values in finals.values()])),
        gain=bootstrap(gains),
        above=float(np.mean(every > 0)) if len(every) else math.nan,
        below=float(np.mean(every < 0)) if len(every) else math.nan,
        megabytes=float(np.mean([(run.bytes_up + run.bytes_down) / 1e6 for run in runs])),
        network_seconds=float(np.mean([run.network_seconds for run in runs])),
        diverged=sum(run.diverged for run in runs),
    )


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _gains(results: Results, setting: str, of: str, against: str) -> dict[int, list[float]]:
    """Differences of final accuracies by seed, over the clients that both have."""
    ours, theirs = results.finals(setting, of), results.finals(setting, against)
    gains = {
        seed: [value - theirs[seed][client] for client, value in values.items() if client in theirs[seed]]
        for seed, values in ours.items()
        if seed in theirs
    }
    return {seed: values for seed, values in gains.items() if values}


@dataclass(frozen=True)
class Confirmation:
    """One committed number, and what the new runs say of it."""

    what: str
    is_confirmed: bool
    detail: str


def confirm(committed: Numbers, new: Numbers) -> Iterator[Confirmation]:
    """For each committed number that was run again: whether the new one lies within its interval.

    Bytes have no interval; they may differ by one percent. A comparison must also keep its verdict.
    """
    cells = {(cell.setting, cell.variant): cell for cell in new.cells}
    for old in committed.cells:
        now = cells.get((old.setting, old.variant))
        if now is None:
            continue
        name = ", ".join(part for part in (old.variant, old.setting) if part)
        inside = within(now.accuracy.mean, old.accuracy)
        yield Confirmation(f"accuracy of {name}", inside, _beside(now.accuracy.mean, old.accuracy))
        near = abs(now.megabytes - old.megabytes) <= BYTES_TOLERANCE * old.megabytes
        yield Confirmation(f"bytes of {name}", near, f"{now.megabytes:.2f} MB, committed {old.megabytes:.2f} MB")
    contrasts = {(item.setting, item.of, item.against): item for item in new.contrasts}
    for before in committed.contrasts:
        after = contrasts.get((before.setting, before.of, before.against))
        if after is None or not after.difference.pairs or not before.difference.pairs:
            continue
        name = f"{before.of} − {before.against}" + (f", {before.setting}" if before.setting else "")
        inside = within(after.difference.mean, before.difference) and before.verdict == after.verdict
        detail = _beside(after.difference.mean, before.difference)
        yield Confirmation(name, inside, f"{detail}; {before.verdict}, now {after.verdict}")


def within(value: float, interval: Interval) -> bool:
    """Inside the interval, up to the rounding of what is committed."""
    return interval.low - 1e-6 <= value <= interval.high + 1e-6


def _beside(value: float, interval: Interval) -> str:
    return f"{value:.4f}, committed {interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
