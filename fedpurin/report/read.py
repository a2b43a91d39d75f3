"""One run folder as arrays.

Owns: what a run folder's files mean to the report. Does not own: reading them, also where a kill cut a line off
(run/reader.py), comparing runs. A run of which nothing can be drawn raises `BrokenRun`; whatever else is wrong becomes a
line in `Run.notes`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpurin.report.headline import Headline, headline_of
from fedpurin.run import reader

Array = NDArray[np.float64]

FINAL_COLUMNS = ("accuracy/personalized", "accuracy/sparse", "accuracy/merged")
MEAN_COLUMNS = ("program/core", "program/seconds")
MAX_COLUMNS = ("network/seconds",)


class BrokenRun(ValueError):
    """A folder of which nothing can be drawn; the text says why."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Who holds what: training samples [clients, classes] and the classes' names."""

    class_names: tuple[str, ...]
    train: Array
    test: Array


@dataclass(frozen=True, eq=False)
class MaskRound:
    """Overlap [clients, clients] (NaN on the diagonal) and collaborators of one chosen round."""

    round: int
    ids: tuple[int, ...]
    overlap: Array
    collaborators: Mapping[int, tuple[int, ...]] | None


@dataclass(frozen=True, eq=False)
class Masks:
    """What `callbacks/mask_statistics.py` wrote: densities and moved shares [rounds, tensors], and chosen rounds."""

    tensors: tuple[str, ...]
    overlap_kind: str
    rounds: Array
    density: Array
    moved: Array
    moved_overall: Array
    chosen: tuple[MaskRound, ...]


@dataclass(frozen=True, eq=False)
class Run:
    """A run that can be drawn. `metrics` hold a value a round, NaN where none was recorded."""

    path: Path
    options: Mapping[str, Any]
    rounds: Array
    metrics: Mapping[str, Array]
    client_ids: Array
    final: Mapping[str, Array]
    """Each client's latest value of FINAL_COLUMNS and of each `test/NAME/VARIANT`."""
    partition: Partition | None
    masks: Masks | None
    status: str
    revision: str
    """The code's git revision, marked where files had been changed; empty where unknown."""
    notes: tuple[str, ...]
    whole_share: float = math.nan
    """The whole model's size over that of the part that the method shares; NaN where unknown, or where nothing is shared."""
    judged_by: Headline = field(default_factory=Headline)

    @property
    def seed(self) -> int:
        return int(self.options.get("seed", 0))

    @property
    def data(self) -> str:
        return str(self.options.get("data.name", "unknown data"))

    @property
    def planned_rounds(self) -> int:
        return int(self.options.get("trainer.rounds", len(self.rounds)))

    @property
    def is_complete(self) -> bool:
        return int(self.rounds[-1]) + 1 >= self.planned_rounds

    @property
    def uses_masks(self) -> bool:
        """Whether the method exchanged by masks: only then the sparse model is measured."""
        return any(name.endswith("/sparse") and self.has(name) for name in self.metrics)

    @property
    def headline(self) -> Array:
        """The value that the run is judged by, after each round."""
        return self.metrics.get(self.judged_by.column, np.full(len(self.rounds), math.nan))

    @property
    def merit(self) -> float:
        """The latest headline, so that more is better; least of all where there is none."""
        value = self.judged_by.sign * self.last(self.judged_by.column)
        return value if math.isfinite(value) else -math.inf

    @cached_property
    def method(self) -> str:
        """The recorded choice of `configs/method`, else the class with the switches that make it another rule.

        Never the run's name: that is the user's to choose.
        """
        if chosen := self.options.get("choices.method"):
            return str(chosen).rpartition(".")[2]
        name = str(self.options.get("method._target_", "unknown")).rpartition(".")[2].lower()
        switches = tuple(self.options.get(f"method.{option}") for option in ("overlap", "normalise"))
        if name != "fedpurin" or switches in ((None, None), ("published", "collaborators"), ("published", None)):
            return name
        recommended = switches == ("dice", "contributors") and self.options.get("scores.source") == "update"
        return "fedpurin_recommended" if recommended else f"fedpurin ({', '.join(map(str, switches))})"

    def has(self, name: str) -> bool:
        return name in self.metrics and bool(np.isfinite(self.metrics[name]).any())

    def last(self, name: str) -> float:
        """The latest recorded value, NaN where there is none."""
        values = self.metrics.get(name, np.empty(0))
        values = values[np.isfinite(values)]
        return float(values[-1]) if len(values) else math.nan

    def total(self, name: str) -> float:
        """Sum over rounds, NaN where the run did not record it."""
        return float(np.nansum(self.metrics[name])) if self.has(name) else math.nan


def read_run(path: Path) -> Run:
    """Read one run folder.

    Raises:
        BrokenRun: no configuration or no complete round.
    """
    notes: list[str] = []
    try:
        options = _read_choices(path) | reader.flatten(reader.read_options(path))
    except reader.Unreadable as error:
        raise BrokenRun(str(error)) from None
    if not (path / reader.METRICS).exists():
        raise BrokenRun(f"{reader.METRICS} is missing")
    lines = _noted(reader.METRICS, reader.read_lines(path / reader.METRICS), notes).by_round()
    if not lines:
        raise BrokenRun(f"{reader.METRICS} holds no complete round")
    rounds = np.array(sorted(lines), dtype=np.float64)
    names = dict.fromkeys(name for line in lines.values() for name in line if name != "round")
    metrics = {name: np.array([_number(lines[int(number)].get(name)) for number in rounds]) for name in names}
    ids, final, by_round = _read_clients(path, rounds, notes)
    partition, masks = _read_partition(path / reader.PARTITION, notes), _read_masks(path, notes)
    summary = _read_summary(path, notes)
    return Run(
        judged_by=headline_of(options, metrics),
        path=path,
        options=options,
        rounds=rounds,
        metrics=by_round | metrics,
        client_ids=ids,
        final=final,
        partition=partition,
        masks=masks,
        status=str(summary.get("status", "unknown")),
        revision=_read_revision(path),
        notes=tuple(notes),
        whole_share=_whole_share(summary),
    )


def _read_choices(path: Path) -> dict[str, Any]:
    """What Hydra says was chosen of each group: for runs whose config.yaml does not record it yet."""
    try:
        method = reader.read_yaml(path / reader.HYDRA / "hydra.yaml")["hydra"]["runtime"]["choices"]["method"]
    except (reader.Unreadable, KeyError, TypeError):  # missing or of another version: the method is named by its class
        return {}
    return {"choices.method": method} if method else {}


def _read_revision(path: Path) -> str:
    record = reader.read_object(path / reader.ENVIRONMENT)
    revision = str(record.get("git_revision") or "")[:10]
    return revision + (" with changes" if revision and record.get("git_changed_files") else "")


def _noted(name: str, lines: reader.Lines, notes: list[str]) -> reader.Lines:
    """The lines, with a note of those that a kill cut off or that are broken."""
    if broken := lines.broken:
        where = f"line {broken[0]}" if len(broken) == 1 else f"{len(broken)} lines (first: {broken[0]})"
        notes.append(f"{name}: {where} cut off or broken, the {lines.count - len(broken)} whole lines are used")
    return lines


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _read_clients(path: Path, rounds: Array, notes: list[str]) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """Client ids, each one's latest measured values, and per-round aggregates of the others."""
    empty = np.empty(0)
    try:
        table = reader.read_clients(path)
    except FileNotFoundError:
        notes.append("clients.csv is missing: nothing about single clients")
        return empty, {}, {}
    except OSError as error:
        notes.append(f"clients.csv cannot be read ({error.strerror}): nothing about single clients")
        return empty, {}, {}
    if table.is_cut:
        notes.append("clients.csv: the last row is cut off and not used")
    finals = (*FINAL_COLUMNS, *(name for name in table.names if name.startswith("test/")))  # of validation_step's own
    names = ("round", "client", *finals, *MEAN_COLUMNS, *MAX_COLUMNS)
    rows = {name: _floats(table.column(name)) for name in names}
    known = np.isin(rows["round"], rounds) & np.isfinite(rows["client"])
    if not known.any():
        notes.append("clients.csv holds no row of a whole round: nothing about single clients")
        return empty, {}, {}
    rows = {name: values[known] for name, values in rows.items()}
    ids, inverse = np.unique(rows["client"], return_inverse=True)
    position = np.searchsorted(rounds, rows["round"])
    in_order = np.argsort(position, kind="stable")
    final = {}
    for name in finals:
        measured = in_order[np.isfinite(rows[name][in_order])]
        if len(measured):
            final[name] = np.full(len(ids), math.nan)
            final[name][inverse[measured]] = rows[name][measured]  # in order of rounds: the last one stays
    by_round = {}
    for name in (*MEAN_COLUMNS, *MAX_COLUMNS):
        measured = np.flatnonzero(np.isfinite(rows[name]))
        if not len(measured):
            continue
        at, values = position[measured], rows[name][measured]
        if name in MAX_COLUMNS:
            highest = np.full(len(rounds), -math.inf)
            np.maximum.at(highest, at, values)
            by_round[f"clients/max/{name}"] = np.where(np.isfinite(highest), highest, math.nan)
        else:
            counts = np.bincount(at, minlength=len(rounds))
            sums = np.bincount(at, weights=values, minlength=len(rounds))
            by_round[f"clients/mean/{name}"] = np.divide(
                sums, counts, out=np.full(len(rounds), math.nan), where=counts > 0
            )
    return ids, final, by_round


def _floats(cells: Sequence[str]) -> Array:
    """Numbers; NaN for empty cells and for what is none."""
    try:
        return np.array([float(cell) if cell else math.nan for cell in cells], dtype=np.float64)
    except ValueError:
        return np.array([_parse(cell) for cell in cells], dtype=np.float64)


def _parse(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _read_summary(path: Path, notes: list[str]) -> Mapping[str, Any]:
    summary = reader.read_summary(path)
    if not summary:
        is_there = (path / reader.SUMMARY).exists()
        notes.append(f"{reader.SUMMARY} is {'empty or broken' if is_there else 'missing'}")
    return summary


def _whole_share(summary: Mapping[str, Any]) -> float:
    whole, shared = (_number(summary.get(name)) for name in ("num_parameters", "num_shared"))
    return whole / shared if shared > 0 else math.nan


def recorded_error(path: Path) -> str:
    """What the run left in summary.json about its end, to be set behind a reason; empty if it left nothing."""
    error = reader.read_summary(path).get("error")
    return f"; it recorded: {' '.join(str(error).split())[:300]}" if error else ""


def _read_partition(path: Path, notes: list[str]) -> Partition | None:
    if not path.exists():
        return None
    value = reader.read_object(path)
    try:
        names = tuple(str(name) for name in value["class_names"])
        train, test = (np.array(value[split], dtype=np.float64).reshape(-1, len(names)) for split in ("train", "test"))
        return Partition(names, train, test)
    except (ValueError, KeyError, TypeError):
        notes.append("partition.json is broken")
        return None


def _read_masks(path: Path, notes: list[str]) -> Masks | None:
    header, lines = reader.read_masks(path)
    by_round = _noted(reader.MASKS, lines, notes).by_round()
    if not header or not by_round:
        return None
    try:
        ordered = [by_round[number] for number in sorted(by_round)]
        tensors = tuple(header["tensors"])
        density, moved = (
            np.array([line[name] for line in ordered], dtype=np.float64).reshape(len(ordered), len(tensors))
            for name in ("density", "moved")
        )
        overall = np.array([line["moved/all"] for line in ordered], dtype=np.float64)
        chosen = tuple(_mask_round(line) for line in ordered if "overlap" in line)
        rounds = np.array(sorted(by_round), dtype=np.float64)
        return Masks(tensors, str(header["overlap"]), rounds, density, moved, overall, chosen)
    except (ValueError, KeyError, TypeError):
        notes.append("masks.jsonl is broken")
        return None


def _mask_round(line: Mapping[str, Any]) -> MaskRound:
    groups = line.get("collaborators")
    return MaskRound(
        round=int(line["round"]),
        ids=tuple(line["ids"]),
        overlap=np.array(line["overlap"], dtype=np.float64),
        collaborators=None if groups is None else {int(client_id): tuple(group) for client_id, group in groups.items()},
    )
