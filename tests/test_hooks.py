"""Hooks are typed: what nobody would call is an error at once; callbacks may add columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from fedpurin.hooks import Row, RunCallback
from fedpurin.run.record import CLIENT_COLUMNS, RunFolder
from tests.methods.tiny import simulate


def test_a_misspelt_hook_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.on_rond_end is no hook of a run; did you mean on_round_end\?"):

        class Wrong(RunCallback):
            def on_rond_end(self) -> None: ...


def test_an_unknown_argument_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.on_round_end has no argument 'metrics'; there are federation, record"):

        class Wrong(RunCallback):
            def on_round_end(self, metrics: Any) -> None: ...


def test_lightnings_hooks_and_fewer_arguments_are_fine() -> None:
    class Right(RunCallback):
        def on_fit_end(self, trainer: Any, pl_module: Any) -> None: ...
        def on_round_done(self, number: int) -> None: ...
        def on_run_end(self) -> None: ...

    assert Right().on_run_end() is None  # type: ignore[func-returns-value]


def test_a_callback_adds_columns(tmp_path: Path) -> None:
    class Adds(RunCallback):
        def on_client_rows(self, rows: list[Row]) -> None:
            for row in rows:
                row["own/double"] = 2 * row["client"]

        def on_round_columns(self, record: Row, rows: list[Row]) -> None:
            record["own/sum"] = sum(row["own/double"] for row in rows)

    simulate(tmp_path, "method=fedavg", callbacks=[Adds()])
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["own/sum"] for record in records] == [12, 12]
    with (tmp_path / "clients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["own/double"] for row in rows] == ["0", "2", "4", "6"] * 2


def test_a_column_that_comes_later_is_empty_before(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_round({"round": 0}, [{"round": 0, "client": 1}])
    folder.append_round({"round": 1}, [{"round": 1, "client": 1, "own": 5}])
    folder.append_round({"round": 2}, [{"round": 2, "client": 1}])
    with (tmp_path / "clients.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        assert [row["own"] for row in reader] == ["", "5", ""]
        assert reader.fieldnames == [*CLIENT_COLUMNS, "own"]
