"""A run folder's files as plain values: the one reader that report, list, sweep, sync, tracking, study and resume share.

Owns: the files' names, which folders are runs, and what counts of a file that is missing, damaged, or cut off because
its process was killed or is writing at this moment: whole lines and rows count, of a round that is there twice the
later line. Does not own: writing (record.py), the configuration as checked options (stored_config.py), what a file means
to a command. Imports no torch, so that hundreds of runs are listed in a second or two.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpurin.run.files import LARGE_BYTES, open_file, read_file

CONFIG, METRICS, CLIENTS, SUMMARY = "config.yaml", "metrics.jsonl", "clients.csv", "summary.json"
ENVIRONMENT, PARTITION, MASKS = "environment.json", "partition.json", "masks.jsonl"
FINISHED, DIVERGED = "finished", "diverged"
ENDED = (FINISHED, DIVERGED)
"""What a summary's status says of a run that has all of its rounds; diverged: at the end nobody trained any more."""
RUN_FILES = frozenset({CONFIG, METRICS, SUMMARY})
HYDRA = ".hydra"
"""Made by Hydra before the run starts: all that a sweep's job leaves which failed at once."""
SWEEP_FILES = ("multirun.yaml", "overrides.txt")
MAX_REASON = 120


class Unreadable(ValueError):
    """A file that has to be there is not, or is not what a run writes; the text says which and why."""


@dataclass(frozen=True)
class Lines:
    """The whole lines of a JSON lines file that hold an object, and the numbers (from 1) of those that are broken."""

    values: tuple[dict[str, Any], ...]
    broken: tuple[int, ...]
    count: int

    def by_round(self) -> dict[int, dict[str, Any]]:
        """Lines by their round; a line that names none is left out."""
        return {line["round"]: line for line in self.values if isinstance(line.get("round"), int)}


@dataclass(frozen=True)
class Table:
    """The whole rows of a CSV file, cells as text."""

    names: tuple[str, ...]
    rows: tuple[Sequence[str], ...]
    is_cut: bool
    """Whether the last row lacks its end, and is left out."""

    def column(self, name: str) -> Sequence[str]:
        """One cell a row; empty ones where the table has no such column."""
        if name not in self.names:
            return [""] * len(self.rows)
        at = self.names.index(name)
        return [row[at] for row in self.rows]

    def records(self) -> Iterator[dict[str, str]]:
        """Each row by the columns' names."""
        return (dict(zip(self.names, row, strict=True)) for row in self.rows)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where the file is missing or damaged."""
    try:
        value = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_summary(run_dir: Path) -> dict[str, Any]:
    """What the run says of its end, or while it goes on of its state; empty where it says nothing."""
    return read_object(run_dir / SUMMARY)


def read_lines(path: Path) -> Lines:
    """A JSON lines file; no line where it is missing."""
    try:
        lines = read_file(path, LARGE_BYTES).splitlines()
    except OSError:
        lines = []
    values, broken = [], []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            broken.append(number)
            continue
        if isinstance(value, dict):
            values.append(value)
    return Lines(tuple(values), tuple(broken), len(lines))


def read_ends(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first and the last line of a JSON lines file, without decoding those between; empty where one is broken."""
    try:
        with open_file(path, LARGE_BYTES) as file:
            first = file.readline()
            last = next(iter(deque(file, maxlen=1)), first)
    except OSError:
        return {}, {}
    return _decoded(first), _decoded(last)


def read_rounds(run_dir: Path) -> list[dict[str, Any]]:
    """The run's records, one a round, in order."""
    by_round = read_lines(run_dir / METRICS).by_round()
    return [by_round[number] for number in sorted(by_round)]


def count_rounds(run_dir: Path) -> int:
    """How many rounds have ended, by their lines alone."""
    try:
        return read_file(run_dir / METRICS, LARGE_BYTES).count(b"\n")
    except OSError:
        return 0


def read_clients(run_dir: Path) -> Table:
    """`clients.csv`, a row a client and round.

    Raises:
        FileNotFoundError: there is none.
    """
    text = read_file(run_dir / CLIENTS, LARGE_BYTES).decode(errors="replace")
    whole = text[: text.rfind("\n") + 1]
    reader = csv.reader(io.StringIO(whole, newline=""))
    names = tuple(next(reader, []))
    return Table(names, tuple(row for row in reader if len(row) == len(names)), is_cut=whole != text)


def read_masks(run_dir: Path) -> tuple[dict[str, Any], Lines]:
    """The line of `masks.jsonl` that describes the tensors (empty without one), and all lines."""
    lines = read_lines(run_dir / MASKS)
    return next((line for line in lines.values if "tensors" in line), {}), lines


def read_options(run_dir: Path) -> dict[str, Any]:
    """`config.yaml` as nested mappings, unchecked: also of a run that another version made.

    Raises:
        Unreadable: it is missing, empty or no YAML mapping.
    """
    loaded = read_yaml(run_dir / CONFIG)
    if not loaded:
        raise Unreadable(f"{CONFIG} is empty")
    if not isinstance(loaded, dict):
        raise Unreadable(f"{CONFIG} cannot be read: it is no mapping of options")
    return {str(key): value for key, value in loaded.items()}


def read_yaml(path: Path) -> Any:
    """A YAML file's plain values, with the faster of PyYAML's two parsers.

    Raises:
        Unreadable: it is missing or no YAML.
    """
    import yaml

    try:
        content = read_file(path)
        check_references(content)
        return yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise Unreadable(f"{path.name} is missing") from None
    except Exception as error:  # beside YAMLError, whatever its constructors raise: ValueError, RecursionError
        raise Unreadable(f"{path.name} cannot be read: {' '.join(str(error).split())[:MAX_REASON]}") from None


def check_references(content: bytes) -> None:
    """Refuse YAML that repeats parts of itself by reference: no run does, and a few lines of it fill any memory.

    Raises:
        ValueError: it does.
    """
    import yaml

    if b"*" not in content:
        return
    events = yaml.parse(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if any(isinstance(event, yaml.AliasEvent) for event in events):
        raise ValueError("it repeats parts of itself by reference (&name, *name)")


def read_overrides(run_dir: Path) -> list[str] | None:
    """What the run was started with, by Hydra's own record; None where there is none or it is no list."""
    try:
        recorded = read_yaml(run_dir / HYDRA / "overrides.yaml") or []
    except Unreadable:
        return None
    return [str(item) for item in recorded] if isinstance(recorded, list) else None


def find_folders(root: Path) -> Iterator[Path]:
    """Folders of runs in and below `root`, in natural order (2 before 10); nothing is searched below a run.

    A folder is a run's if it holds one of RUN_FILES, or below the root Hydra's own folder. A sweep's folder, which a
    single run may have used as well, is searched all the same.
    """
    for folder, subfolders, files in os.walk(root):
        path = Path(folder)
        names = set(files)
        is_run = bool(RUN_FILES & names) or (HYDRA in subfolders and path != root)
        subfolders[:] = natural_order(name for name in subfolders if not name.startswith("."))
        if is_run:
            if not names.intersection(SWEEP_FILES):
                subfolders.clear()
            yield path


def natural_order(names: Iterable[str]) -> list[str]:
    """Numbers by their value, then names by the alphabet."""
    return sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted options; an empty mapping is no option."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _decoded(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
