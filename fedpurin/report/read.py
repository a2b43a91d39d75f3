"""One run folder as arrays.

Owns: reading `config.yaml`, `metrics.jsonl`, `clients.csv`, `summary.json`, `partition.json` and `masks.jsonl`
(names: fedpurin/run/record.py, callbacks/mask_statistics.py), also where a kill cut a line off. Does not own: comparing
runs. A run of which nothing can be drawn raises `BrokenRun`; whatever else is wrong becomes a line in `Run.notes`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

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
        return self.has("accuracy/sparse")

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
    options = _read_choices(path / ".hydra" / "hydra.yaml") | _read_options(path / "config.yaml")
    lines = _by_round(_json_lines(path / "metrics.jsonl", notes, required=True))
    if not lines:
        raise BrokenRun("metrics.jsonl holds no complete round")
    rounds = np.array(sorted(lines), dtype=np.float64)
    names = dict.fromkeys(name for line in lines.values() for name in line if name != "round")
    metrics = {
        name: np.array([_number(lines[int(round_number)].get(name)) for round_number in rounds]) for name in names
    }
    ids, final, by_round = _read_clients(path / "clients.csv", rounds, notes)
    return Run(
        path=path,
        options=options,
        rounds=rounds,
        metrics=by_round | metrics,
        client_ids=ids,
        final=final,
        partition=_read_partition(path / "partition.json", notes),
        masks=_read_masks(path / "masks.jsonl", notes),
        status=_read_status(path / "summary.json", notes),
        revision=_read_revision(path / "environment.json"),
        notes=tuple(notes),
    )


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested options under dotted names."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_options(path: Path) -> dict[str, Any]:
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError:
        raise BrokenRun("config.yaml is missing") from None
    except Exception as error:  # OmegaConf passes on whatever its YAML parser raises
        raise BrokenRun(f"config.yaml cannot be read: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(loaded, dict) or not loaded:
        raise BrokenRun("config.yaml is empty")
    return dict(flatten({str(key): value for key, value in loaded.items()}))


def _read_choices(path: Path) -> dict[str, Any]:
    """What Hydra says was chosen of each group: for runs whose config.yaml does not record it yet."""
    try:
        choices = OmegaConf.load(path).hydra.runtime.choices
        return {f"choices.{group}": chosen for group, chosen in choices.items() if group == "method" and chosen}
    except Exception:  # missing, broken or of another version of Hydra: the method is named by its class
        return {}


def _read_revision(path: Path) -> str:
    try:
        record = json.loads(path.read_text())
        revision = str(record.get("git_revision") or "")[:10]
        return revision + (" with changes" if revision and record.get("git_changed_files") else "")
    except (OSError, ValueError, AttributeError):
        return ""


def _json_lines(path: Path, notes: list[str], *, required: bool = False) -> Iterator[dict[str, Any]]:
    """The file's whole lines. A line that a kill cut off is left out, and noted."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        if required:
            raise BrokenRun(f"{path.name} is missing") from None
        return
    broken = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError:
            broken.append(number)
            continue
        if isinstance(value, dict):
            yield value
    if broken:
        where = f"line {broken[0]}" if len(broken) == 1 else f"{len(broken)} lines (first: {broken[0]})"
        notes.append(f"{path.name}: {where} cut off or broken, the {len(lines) - len(broken)} whole lines are used")


def _by_round(lines: Iterator[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Lines by round; a resumed run may have written a round twice, and its later line counts."""
    return {int(line["round"]): line for line in lines if isinstance(line.get("round"), int)}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _read_clients(path: Path, rounds: Array, notes: list[str]) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """Client ids, each one's latest measured values, and per-round aggregates of the others."""
    empty = np.empty(0)
    try:
        finals = (*FINAL_COLUMNS, *_further_columns(path))
        rows = _read_columns(path, ("round", "client", *finals, *MEAN_COLUMNS, *MAX_COLUMNS), notes)
    except FileNotFoundError:
        notes.append("clients.csv is missing: nothing about single clients")
        return empty, {}, {}
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


def _further_columns(path: Path) -> list[str]:
    """Columns of what validation_step logged beside the accuracy: `test/NAME/VARIANT`."""
    with path.open(newline="", errors="replace") as file:
        return [name for name in next(csv.reader(file), []) if name.startswith("test/")]


def _read_columns(path: Path, names: tuple[str, ...], notes: list[str]) -> dict[str, Array]:
    """Numeric columns of a CSV file; NaN for empty cells and absent columns. A cut last row is left out."""
    with path.open(newline="", errors="replace") as file:
        text = file.read()
    lines = text.splitlines()
    if text and not text.endswith("\n"):
        lines.pop()
        notes.append("clients.csv: the last row is cut off and not used")
    reader = csv.reader(lines)
    header = next(reader, [])
    rows = [row for row in reader if len(row) == len(header)]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    by_name = dict(zip(header, columns, strict=True))
    absent = [""] * len(rows)
    return {name: _floats(by_name.get(name, absent)) for name in names}


def _floats(cells: Any) -> Array:
    try:
        return np.array([float(cell) if cell else math.nan for cell in cells], dtype=np.float64)
    except ValueError:
        return np.array([_parse(cell) for cell in cells], dtype=np.float64)


def _parse(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _read_status(path: Path, notes: list[str]) -> str:
    try:
        return str(json.loads(path.read_text()).get("status", "unknown"))
    except FileNotFoundError:
        notes.append("summary.json is missing")
    except (ValueError, AttributeError):
        notes.append("summary.json is empty or broken")
    return "unknown"


def recorded_error(path: Path) -> str:
    """What the run left in summary.json about its end, to be set behind a reason; empty if it left nothing."""
    try:
        error = json.loads((path / "summary.json").read_text()).get("error")
    except (OSError, ValueError, AttributeError):
        return ""
    return f"; it recorded: {' '.join(str(error).split())[:300]}" if error else ""


def _read_partition(path: Path, notes: list[str]) -> Partition | None:
    try:
        value = json.loads(path.read_text())
        names = tuple(str(name) for name in value["class_names"])
        train, test = (np.array(value[split], dtype=np.float64).reshape(-1, len(names)) for split in ("train", "test"))
        return Partition(names, train, test)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        notes.append("partition.json is broken")
        return None


def _read_masks(path: Path, notes: list[str]) -> Masks | None:
    lines = list(_json_lines(path, notes))
    header = next((line for line in lines if "tensors" in line), None)
    by_round = _by_round(iter(lines))
    if header is None or not by_round:
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
