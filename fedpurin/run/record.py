"""The run folder: what a run writes about itself, as it goes.

    config.yaml        the composed configuration          metrics.jsonl   one object a round
    environment.json   versions, machine, git revision     clients.csv     one row a client and round
    summary.json       status and final metrics            partition.json  samples by client and class
    fedpurin.log       the log

Every line is written whole and flushed when its round ends, so the files can be read while the run goes on and a
kill loses nothing that was written. Only rank 0 writes. Columns that measure wall-clock time end in `seconds`,
placement is called `rank`; all else is the same wherever the run ran.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpurin.config import Config, ConfigError
from fedpurin.exchange.network import seconds_to_accuracy
from fedpurin.hooks import RunCallback
from fedpurin.metrics import ACCURACY, VARIANTS, headline
from fedpurin.metrics import best as best_of
from fedpurin.run.environment import describe_environment
from fedpurin.run.growing import OWN
from fedpurin.run.interruption import Interrupted
from fedpurin.run.place import Place
from fedpurin.run.reader import DIVERGED, ENVIRONMENT, FINISHED, read_object
from fedpurin.run.resume import holds_run
from fedpurin.run.stored_config import new_id, read_id, write_config

if TYPE_CHECKING:
    from fedpurin.federation import Federation

log = logging.getLogger(__name__)

CLIENT_COLUMNS = (
    "round", "client", "rank", "num_train", "diverged", "loss/train",
    "accuracy/personalized", "accuracy/sparse", "accuracy/merged",
    "bytes/up", "bytes/up/mask", "bytes/up/values", "bytes/up/dense", "bytes/up/peers",
    "bytes/down", "bytes/down/request", "bytes/down/sums", "bytes/down/values", "bytes/down/dense", "bytes/down/peers",
    "bytes/dense_up", "bytes/dense_down", "bytes/fedcac_up", "bytes/fedcac_down",
    "mask/density", "mask/null",
    "program/status", "program/objective", "program/bound", "program/gap", "program/core", "program/seconds",
    "network/seconds", "fit/seconds",
)  # fmt: skip
LOGGED = (
    "loss/train",
    *(f"{ACCURACY}/{v}" for v in ("personalized", "merged")),
    "bytes/up",
    "bytes/down",
    "round/seconds",
)
TOTALS = ("bytes/up", "bytes/down", "bytes/dense_up", "bytes/dense_down", "bytes/fedcac_up", "bytes/fedcac_down")
STARTED = ("command", "machine", "git_revision", "slurm_job_id", "slurm_restart_count")
"""What is kept of every start of a run that was interrupted."""


class RunFolder:
    """Appends to the files of one run folder."""

    def __init__(self, path: Path) -> None:
        make_folder(path)
        self.path, self.place = path, Place(path)
        self.run_id = ""
        self._grown: list[str] = []

    def open(self, config: Config, *, num_parameters: int, num_shared: int, first_round: int = 0) -> None:
        """Write what is known before the first round, or before the first that a resumed run still has to do."""
        self.run_id = (read_id(self.path) if first_round else None) or new_id()
        self._grown = [name for name in OWN if first_round and (self.path / name).exists()]
        write_config(self.path, config, self.run_id)
        environment = describe_environment()
        started = {name: environment[name] for name in STARTED} | {"first_round": first_round}
        starts = [*self._earlier_starts(), started] if first_round else [started]
        write_json(self.path / ENVIRONMENT, environment | {"starts": starts})
        self.finish({"status": "running", "num_parameters": num_parameters, "num_shared": num_shared})

    def write_partition(self, class_names: Sequence[str], train: Iterable[Any], test: Iterable[Any]) -> None:
        """Who holds what: the classes' names, and samples by client and class in training and in test."""
        counts = {"train": [list(map(int, row)) for row in train], "test": [list(map(int, row)) for row in test]}
        write_json(self.path / "partition.json", {"class_names": list(class_names), **counts})

    def append_round(self, record: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
        """Append a round: its clients first, then its metrics line, which marks the round as complete."""
        rows = list(rows)
        clients = self.path / "clients.csv"
        self.check()
        with self.place.explained():
            columns = self._columns(clients, rows)
            with clients.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns, restval="").writerows(rows)
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        self._grown = [name for name in OWN if (self.path / name).exists()]

    def check(self) -> None:
        """See that the folder is where it was, with the records of the rounds before, which would be begun anew.

        Raises:
            FolderError: names what is not.
        """
        self.place.check(*self._grown)

    @staticmethod
    def _columns(clients: Path, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """The table's columns, with those that callbacks add behind ours; a new one is added to earlier rows, empty."""
        added = {name: None for row in rows for name in row if name not in CLIENT_COLUMNS}
        if not clients.exists():
            is_measured = any(name.startswith("test/") for name in added) and not any(
                name.startswith(f"{ACCURACY}/") for row in rows for name in row
            )  # by something that is no accuracy
            columns = [n for n in CLIENT_COLUMNS if not (is_measured and n.startswith(f"{ACCURACY}/"))] + [*added]
            earlier: list[dict[str, str]] = []
        else:
            with clients.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                columns = list(reader.fieldnames or CLIENT_COLUMNS)
                if set(added) <= set(columns):
                    return columns
                earlier = list(reader)
            columns += [name for name in added if name not in columns]
        whole = clients.with_suffix(".tmp")
        with whole.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(earlier)
        whole.replace(clients)
        return columns

    def fail(self, status: str, error: BaseException, rounds: int) -> None:
        """Say why there is no result; a full disk must not hide the reason, nor a folder that has gone."""
        if not self.place.is_there():
            return  # whatever lies in its place now is not ours
        try:
            self.finish({"status": status, "error": first_line(error), "rounds": rounds})
        except OSError as failure:
            level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR  # one line for one reason
            log.log(level, "summary.json cannot be written: %s", failure)

    def _earlier_starts(self) -> list[Any]:
        earlier = read_object(self.path / ENVIRONMENT).get("starts")
        return earlier if isinstance(earlier, list) else []

    def finish(self, summary: Mapping[str, Any]) -> None:
        write_json(self.path / "summary.json", summary)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def make_folder(path: Path) -> None:
    """Make the run folder, and see that it can be written.

    Raises:
        ConfigError: it cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / "fedpurin.log").touch()
    except OSError as error:
        raise ConfigError(f"hydra.run.dir={path} cannot be written: {error.strerror}") from None


def write_json(path: Path, value: Any) -> None:
    """Replace the file at once: a reader sees the old content or the new, never a part."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(aside, path)


class Recorder(RunCallback):
    """The engine's own listener: writes the run folder from the loop's records, on rank 0."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.partition: tuple[Sequence[str], Iterable[Any], Iterable[Any]] | None = None
        """Class names, and samples by client and class of both splits."""
        self._opened = False

    def on_run_start(self, federation: Federation) -> None:
        self._opened = True
        if federation.processes.rank == 0:
            begins = federation.first_round == 0 or not (self.folder.path / "partition.json").exists()
            if begins and self.partition is not None:
                self.folder.write_partition(*self.partition)
            space = federation.trainer.space
            self.folder.open(
                federation.config,
                num_parameters=space.layout.size,
                num_shared=space.shared.size,
                first_round=federation.first_round,
            )

    def on_client_rows(self, federation: Federation) -> None:
        """Before anybody writes of this round."""
        if federation.processes.rank == 0:
            self.folder.check()

    def on_round_end(self, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        self.folder.append_round(record, rows)
        log.info("round %d: %s", record["round"] + 1, json.dumps(_for_log(record)))

    def on_run_end(self, federation: Federation) -> None:
        if federation.processes.rank == 0:
            space = federation.trainer.space
            sizes = {"num_parameters": space.layout.size, "num_shared": space.shared.size}
            status = DIVERGED if diverged_from(federation) is not None else FINISHED
            self.folder.finish({"status": status, **sizes, **summarise_run(federation)})

    def on_run_failed(self, federation: Federation, error: BaseException) -> None:
        """Leave the reason in `summary.json`, where `fedpurin sweep status` finds it.

        A run that this start may not go on with keeps its own summary.
        """
        if not self._opened and isinstance(error, ConfigError) and holds_run(self.folder.path):
            return
        if federation.processes.rank == 0:
            status = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
            self.folder.fail(status, error, rounds=len(federation.history))


def _for_log(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record in a line; all that is measured of the clients' own models where that is no accuracy."""
    names = [name for name in record if name.startswith("test/") and name.endswith("/personalized")]
    is_accuracy = f"{ACCURACY}/personalized" in record or not names
    return {name: record[name] for name in (*LOGGED, *(() if is_accuracy else names)) if name in record}


def diverged_from(federation: Federation) -> int | None:
    """The round, from 0, since which nobody trained any more because every client diverged, as far as rank 0 knows.

    None where somebody trained in the last round, or where fewer fits than there are clients have failed since: of a
    few clients a round, all may diverge by chance.
    """
    first, fits = None, 0
    for record in reversed(federation.history):
        if record["clients/diverged"] < record["clients/participating"]:
            break
        first, fits = int(record["round"]), fits + int(record["clients/participating"])
    return None if first != 0 and fits < federation.config.partition.num_clients else first


def summarise_run(federation: Federation) -> dict[str, Any]:
    """Final metrics of a run: the last record, the best accuracies, cumulative bytes against dense exchange."""
    history = federation.history
    last, trainer = dict(history[-1]), federation.config.trainer
    head = headline(trainer.monitor, last)
    best = {
        f"best/{name}": max((record[name] for record in history if record.get(name) is not None), default=None)
        for name in (f"{ACCURACY}/{variant}" for variant in VARIANTS)
        if any(name in record for record in history)
    }
    for name in (f"{head}/{variant}" for variant in VARIANTS if head != ACCURACY):
        values = [record[name] for record in history if record.get(name) is not None]
        best[f"best/{name}"] = best_of(values, trainer.monitor_mode)
    totals = {
        f"total/{name}": sum(record.get(name) or 0 for record in history)
        for name in (*TOTALS, "program/seconds", "round/seconds")
    }
    network = federation.config.network
    simulated = [record["network/seconds"] for record in history] if network and federation.links else []
    if simulated:
        totals["total/network/seconds"] = sum(simulated)
    if simulated and network and network.target_accuracy is not None:
        reached = [record.get("accuracy/personalized") for record in history]
        totals["network/seconds_to_target"] = seconds_to_accuracy(simulated, reached, network.target_accuracy)
    gaps = [record["program/gap"] for record in history if record.get("program/gap") is not None]
    return {
        **last, **best, **totals, "headline": f"{head}/personalized",
        "rounds": len(history), "simulator/moved_bytes": federation.moved_bytes,
        **({"worst/program/gap": max(gaps)} if gaps else {}),
    }  # fmt: skip
