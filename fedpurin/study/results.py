"""Finished runs as compact rows, and those rows as the CSV files that are committed.

Owns: what of a run folder a study keeps. `NAME.csv` has a row a run and client: final and best accuracy, bytes.
`NAME.runs.csv` has a row a run: totals, and which code and data made it. Does not own: means and intervals (compare.py).
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fedpurin.config import ConfigError
from fedpurin.run import reader
from fedpurin.study.plan import PlannedRun

METRIC = "accuracy/personalized"
DIGITS = 6


@dataclass(frozen=True)
class ClientRow:
    """One client of one run. Accuracies after local training, in the last round and in the client's best one."""

    setting: str
    variant: str
    seed: int
    client: int
    num_train: int
    final: float
    best: float


@dataclass(frozen=True)
class RunRow:
    """One run: everything that belongs to no single client."""

    setting: str
    variant: str
    seed: int
    rounds: int
    bytes_up: int
    bytes_down: int
    network_seconds: float
    """Simulated transfer time of all rounds, each as long as its slowest client; NaN without a link model."""
    run_seconds: float
    diverged: int
    """Clients that diverged in the last round."""
    code: str
    data: str
    torch: str


@dataclass(frozen=True)
class Results:
    """A study's rows, of finished runs only."""

    clients: tuple[ClientRow, ...]
    runs: tuple[RunRow, ...]

    def finals(self, setting: str, variant: str) -> dict[int, dict[int, float]]:
        """Final accuracies of a cell, by seed and client."""
        table: dict[int, dict[int, float]] = defaultdict(dict)
        for row in self.clients:
            if (row.setting, row.variant) == (setting, variant) and math.isfinite(row.final):
                table[row.seed][row.client] = row.final
        return dict(table)

    def runs_of(self, setting: str, variant: str) -> list[RunRow]:
        return [row for row in self.runs if (row.setting, row.variant) == (setting, variant)]


def read_folder(run: PlannedRun, folder: Path) -> tuple[list[ClientRow], RunRow]:
    """The rows of one finished run."""
    by_client: dict[int, list[tuple[int, float]]] = defaultdict(list)
    num_train: dict[int, int] = {}
    for row in reader.read_clients(folder).records():
        num_train[int(row["client"])] = int(row["num_train"])
        if row[METRIC]:
            by_client[int(row["client"])].append((int(row["round"]), float(row[METRIC])))
    setting, variant = run.cell.setting, run.cell.variant
    clients = []
    for client, count in sorted(num_train.items()):
        measured = sorted(by_client[client])
        final = measured[-1][1] if measured else math.nan
        best = max((value for _, value in measured), default=math.nan)
        clients.append(ClientRow(setting, variant, run.seed, client, count, round(final, DIGITS), round(best, DIGITS)))
    summary, environment = reader.read_summary(folder), reader.read_object(folder / reader.ENVIRONMENT)
    code, _, data = folder.parent.name.partition("-")
    return clients, RunRow(
        setting=setting,
        variant=variant,
        seed=run.seed,
        rounds=int(summary["rounds"]),
        bytes_up=int(summary["total/bytes/up"]),
        bytes_down=int(summary["total/bytes/down"]),
        network_seconds=round(float(summary.get("total/network/seconds", math.nan)), 2),
        run_seconds=round(float(summary["total/round/seconds"]), 1),
        diverged=int(summary.get("clients/diverged") or 0),
        code=code,
        data=data,
        torch=str(environment["packages"]["torch"]),
    )


def collect(runs: Iterable[tuple[PlannedRun, Path]]) -> Results:
    """The rows of finished runs, in their order."""
    clients: list[ClientRow] = []
    rows: list[RunRow] = []
    for run, folder in runs:
        theirs, row = read_folder(run, folder)
        clients += theirs
        rows.append(row)
    return Results(tuple(clients), tuple(rows))


def write_results(folder: Path, name: str, results: Results) -> None:
    """Both files of a study, sorted, so that the same runs give the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"{name}.csv", ClientRow, results.clients)
    _write(folder / f"{name}.runs.csv", RunRow, results.runs)


def read_results(folder: Path, name: str) -> Results | None:
    """What is committed of a study; None where nothing is.

    Raises:
        ConfigError: the files are not what `write_results` writes.
    """
    if not (folder / f"{name}.csv").exists():
        return None
    return Results(
        tuple(_read(folder / f"{name}.csv", ClientRow)),
        tuple(_read(folder / f"{name}.runs.csv", RunRow)),
    )


def _write(path: Path, row_type: Any, rows: Sequence[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(row_type)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _read(path: Path, row_type: Any) -> list[Any]:
    kinds = {field.name: {"int": int, "float": float}.get(str(field.type), str) for field in fields(row_type)}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                row_type(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ConfigError(f"{path} is not a study's results ({error}); restore the committed file") from None
