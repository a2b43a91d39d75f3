"""`fedpurin list [DIR]`: the runs below a folder as one table, best first.

Owns: the columns, the order, the command line. Does not own: which folders hold runs (run/reader.py), how each stands
(sweep.py). Reads the runs' small files only, so that hundreds are listed in a second or two; imports no torch.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpurin.cli.sweep import inspect
from fedpurin.cli.text import Help, print_lines
from fedpurin.config import ConfigError
from fedpurin.metrics import ACCURACY, best
from fedpurin.report.headline import headline_of
from fedpurin.report.table import FORMULA
from fedpurin.run import reader

COLUMNS = ("accuracy", "best", "bytes", "rounds", "state", "method", "data", "seed", "run")
MEASURED = ("accuracy", "best")
"""Columns of the value that a run is judged by: the accuracy, or what `trainer.monitor` names, with its name."""


def main(arguments: Sequence[str]) -> int:
    """`fedpurin list [DIR ...] [--sort COLUMN] [--csv]`."""
    parser = argparse.ArgumentParser(
        prog="fedpurin list",
        description="List the runs in and below folders: method, data, personalised accuracy (mean over clients, of\n"
        "the last evaluated round, and the best round's), bytes sent up and down by all clients, rounds, state. A run\n"
        "that is judged by another value (trainer.monitor) shows that one, with its name, below those with accuracies.",
        epilog="Examples:\n  fedpurin list\n  fedpurin list multirun/tau --sort bytes\n  fedpurin list --csv > runs.csv",
        formatter_class=Help,
    )
    parser.add_argument(
        "folders", metavar="DIR", type=Path, nargs="*", help="where to look (default: outputs and multirun, if there)"
    )
    parser.add_argument(
        "--sort",
        metavar="COLUMN",
        choices=COLUMNS,
        default="accuracy",
        help=f"{', '.join(COLUMNS)} (default: accuracy)",
    )
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--csv", action="store_true", help="comma-separated, bytes as whole numbers")
    given = parser.parse_args(list(arguments))
    folders = given.folders or [path for path in (Path("outputs"), Path("multirun")) if path.is_dir()] or [Path()]
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise ConfigError(f"{missing[0]}: there is no such folder")
    rows = sort_rows(
        [describe(path) for folder in folders for path in reader.find_folders(folder)], given.sort, given.reverse
    )
    if not rows:
        raise ConfigError(f"no run in or below {', '.join(map(str, folders))}")
    if given.csv:
        writer = csv.DictWriter(sys.stdout, (*COLUMNS, "judged_by"), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({name: _as_text(value) for name, value in row.items()} for row in rows)
    else:
        print_lines(fitting_table(rows, terminal_width()))
    return 0


def _as_text(value: Any) -> Any:
    """No formula to a spreadsheet, whatever a folder is called."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def describe(run_dir: Path) -> dict[str, Any]:
    """One row; None where the run does not tell."""
    summary, run, options = reader.read_summary(run_dir), inspect(run_dir), _options(run_dir)
    choices, method, data, trainer = (_mapping(options.get(name)) for name in ("choices", "method", "data", "trainer"))
    monitor = {f"trainer.{name}": trainer.get(name) for name in ("monitor", "monitor_mode")}
    if run.rounds and run.state != "done":
        summary = _so_far(run_dir, monitor) | {name: value for name, value in summary.items() if value is not None}
    head = headline_of(monitor, summary)
    traffic = [_number(summary.get(f"total/bytes/{way}")) for way in ("up", "down")]
    target = str(method.get("_target_", "")).rpartition(".")[2].lower()
    return {
        "accuracy": _number(summary.get(head.column)),
        "best": _number(summary.get(f"best/{head.column}")),
        "bytes": None if None in traffic else sum(part for part in traffic if part is not None),
        "rounds": run.rounds,
        "state": run.state,
        "method": _text(choices.get("method")) or target or None,
        "data": _text(data.get("name")),
        "seed": _number(options.get("seed")),
        "run": str(run_dir),
        "judged_by": head.name,
        "sign": head.sign,
    }


def _so_far(run_dir: Path, monitor: Mapping[str, Any]) -> dict[str, Any]:
    """What the summary of a run that has not ended would hold after its latest round."""
    rounds, totals = reader.read_rounds(run_dir), {}
    for way in ("up", "down"):
        if sent := [count for record in rounds if (count := _number(record.get(f"bytes/{way}"))) is not None]:
            totals[f"total/bytes/{way}"] = sum(sent)
    head = headline_of(monitor, {name for record in rounds for name in record})
    known = [value for record in rounds if (value := _number(record.get(head.column))) is not None]
    return totals | ({head.column: known[-1], f"best/{head.column}": best(known, head.mode)} if known else {})


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int | float | None:
    """A file may have been written or damaged by anybody: one row without a value must not cost the table."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def sort_rows(rows: Sequence[dict[str, Any]], column: str, reverse: bool) -> list[dict[str, Any]]:
    """By a column, equal ones by folder, values that runs are judged by from the best on and each kind by itself; rows
    without a value come last either way.
    """
    known = sorted((row for row in rows if row[column] is not None), key=lambda row: str(row["run"]))
    if column in MEASURED:
        known.sort(key=lambda row: row["sign"] * row[column], reverse=not reverse)
        known.sort(key=lambda row: (row["judged_by"] != ACCURACY, row["judged_by"]))
    else:
        known.sort(key=lambda row: row[column], reverse=reverse)
    return [*known, *(row for row in rows if row[column] is None)]


def terminal_width() -> int | None:
    """Columns of the terminal; none where lines go into a file or to another program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fitting_table(rows: Sequence[Mapping[str, Any]], width: int | None) -> list[str]:
    """The table; where the terminal is too narrow for it, what all runs have in common is said once above it.

    The folder first, then columns with one value, then the best round's value goes.
    """
    lines = table(rows)
    if width is None or max(map(len, lines)) <= width:
        return lines
    folder = os.path.commonpath([Path(row["run"]).parent for row in rows])
    shown = [{**row, "run": os.path.relpath(row["run"], folder)} for row in rows]
    columns, alike = list(COLUMNS), []
    for name in ("data", "rounds", "state", "seed", "method", "best"):
        if max(map(len, table(shown, columns))) <= width:
            break
        values = {_cell(name, row) for row in shown}
        if name == "best":
            columns.remove(name)
        elif len(values) == 1:
            columns.remove(name)
            alike.append(f"{name} {values.pop()}")
    head = f"in {folder or '.'}{': ' if alike else ''}{', '.join(alike)}"
    return [*textwrap.wrap(head, width, break_long_words=False, break_on_hyphens=False), *table(shown, columns)]


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> list[str]:
    """The rows as aligned lines under a head; numbers to the right."""
    cells = [list(columns), *([_cell(name, row) for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    to_left = {index for index, name in enumerate(columns) if name in ("state", "method", "data", "run")}
    return [
        "  ".join(
            cell.ljust(width) if index in to_left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def format_bytes(count: float) -> str:
    """A byte count with a decimal prefix, three significant digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _cell(column: str, row: Mapping[str, Any]) -> str:
    value, judged_by = row[column], row["judged_by"]
    if value is None:
        return "–"
    if column in MEASURED:
        return f"{value:.4f}" if judged_by == ACCURACY else f"{value:.4g} {judged_by}"
    return format_bytes(value) if column == "bytes" else str(value)


def _options(run_dir: Path) -> dict[str, Any]:
    try:
        return reader.read_options(run_dir)
    except reader.Unreadable:
        return {}
