"""`fedpurin list`: one row a run, sorted, from the small files of each folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedpurin.__main__ import main
from fedpurin.cli.list import fitting_table


def make_run(folder: Path, accuracy: float | None, **options: object) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps({"data": {"name": "digits"}, **options}))
    (folder / "metrics.jsonl").write_text('{"round": 0}\n{"round": 1}\n')
    done = {"status": "finished", "accuracy/personalized": accuracy, "best/accuracy/personalized": accuracy}
    traffic = {"total/bytes/up": 1_000_000, "total/bytes/down": 234_000}
    (folder / "summary.json").write_text(json.dumps({**done, **traffic} if accuracy else {"status": "running"}))


def test_runs_are_listed_best_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", 0.5, seed=1, choices={"method": "fedpurin_recommended"})
    make_run(tmp_path / "sweep" / "b", 0.75, seed=2, method={"_target_": "fedpurin.methods.FedAvg"})
    make_run(tmp_path / "c", None, seed=3)
    assert main(["list", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["accuracy", "best", "bytes", "rounds", "state", "method", "data", "seed", "run"],
        ["0.7500", "0.7500", "1.23", "MB", "2", "done", "fedavg", "digits", "2", f"{tmp_path}/sweep/b"],
        ["0.5000", "0.5000", "1.23", "MB", "2", "done", "fedpurin_recommended", "digits", "1", f"{tmp_path}/a"],
        ["–", "–", "–", "2", "stopped", "–", "digits", "3", f"{tmp_path}/c"],
    ]
    assert len({line.index("digits") for line in lines[1:]}) == 1
    assert main(["list", str(tmp_path), "--sort", "seed", "--csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[1] == f"0.5,0.5,1234000,2,done,fedpurin_recommended,digits,1,{tmp_path}/a,accuracy"
    assert [row.rpartition("/")[2].partition(",")[0] for row in rows[1:]] == ["a", "b", "c"]


def test_a_run_that_has_not_ended_shows_what_it_has_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", None, seed=1)
    rounds = [
        {"round": 0, "accuracy/personalized": 0.75, "bytes/up": 1000, "bytes/down": 200},
        {"round": 1, "accuracy/personalized": 0.5, "bytes/up": 1000, "bytes/down": 300},
        {"round": 2, "accuracy/personalized": None, "bytes/up": 1000, "bytes/down": 400},
    ]
    lines = "".join(json.dumps(line) + "\n" for line in rounds)
    (tmp_path / "a" / "metrics.jsonl").write_text(lines + '{"round": 3, "accu')
    assert main(["list", str(tmp_path), "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"0.5,0.75,3900,3,stopped,,digits,1,{tmp_path}/a,accuracy"


def test_runs_judged_by_something_else_are_by_themselves_and_the_right_way_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a", 0.5, seed=1)
    for name, value, least in (("b", 9.5, 8.25), ("c", 2.5, 2.5)):
        make_run(tmp_path / name, None, seed=1, trainer={"monitor": "mse", "monitor_mode": "min"})
        done = {"test/mse/personalized": value, "best/test/mse/personalized": least}
        (tmp_path / name / "summary.json").write_text(json.dumps({"status": "finished", **done}))
    make_run(tmp_path / "d", None, seed=1, trainer={"monitor": "mse", "monitor_mode": "min"})
    (tmp_path / "d" / "metrics.jsonl").write_text(
        '{"round": 0, "test/mse/personalized": 3.5}\n{"round": 1, "test/mse/personalized": 4.5}\n'
    )
    assert main(["list", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(*line[:4], line[-1].rpartition("/")[2]) for line in lines] == [
        ("0.5000", "0.5000", "1.23", "MB", "a"),
        ("2.5", "mse", "2.5", "mse", "c"),
        ("4.5", "mse", "3.5", "mse", "d"),
        ("9.5", "mse", "8.25", "mse", "b"),
    ]


def test_a_narrow_terminal_gets_what_all_runs_share_said_once() -> None:
    shared = {
        "best": 0.9312,
        "bytes": 14_800_000,
        "rounds": 30,
        "state": "done",
        "data": "digits",
        "judged_by": "accuracy",
    }
    runs = [("fedpurin_recommended", 0.9312, 1), ("local", 0.875, 2)]
    rows = [
        {**shared, "accuracy": value, "method": method, "seed": seed, "run": f"multirun/2026-11-30/10-15-00/{seed}"}
        for method, value, seed in runs
    ]
    assert max(map(len, fitting_table(rows, None))) == 108
    assert fitting_table(rows, 108) == fitting_table(rows, None)
    assert fitting_table(rows, 80) == [
        "in multirun/2026-11-30/10-15-00: data digits",
        "accuracy    best    bytes  rounds  state  method                seed  run",
        "  0.9312  0.9312  14.8 MB      30  done   fedpurin_recommended     1  1",
        "  0.8750  0.9312  14.8 MB      30  done   local                    2  2",
    ]
    assert fitting_table(rows, 50) == [
        "in multirun/2026-11-30/10-15-00: data digits,",
        "rounds 30, state done",
        "accuracy    bytes  method                seed  run",
        "  0.9312  14.8 MB  fedpurin_recommended     1  1",
        "  0.8750  14.8 MB  local                    2  2",
    ]


def test_a_folder_without_runs_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(tmp_path)]) == 2
    assert "no run in or below" in capsys.readouterr().err
    assert main(["list", str(tmp_path / "no")]) == 2


def test_a_name_that_would_be_a_formula_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", 0.5, seed=1, choices={"method": "=1+1"})
    assert main(["list", str(tmp_path), "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"0.5,0.5,1234000,2,done,'=1+1,digits,1,{tmp_path}/a,accuracy"


def test_a_damaged_run_is_a_row_without_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", 0.5, seed=1)
    make_run(tmp_path / "b", 0.5, seed=["x"], choices=["y"], method="z", data=7)
    damaged = {"accuracy/personalized": "high", "best/accuracy/personalized": [1], "total/bytes/up": "2"}
    (tmp_path / "b" / "summary.json").write_text(json.dumps({"status": "finished", "total/bytes/down": 1, **damaged}))
    for column in ("accuracy", "best", "bytes", "method", "data", "seed"):
        assert main(["list", str(tmp_path), "--sort", column, "--csv"]) == 0
        assert capsys.readouterr().out.splitlines()[2] == f",,,2,done,,,,{tmp_path}/b,accuracy"
    assert main(["list", str(tmp_path)]) == 0
    cells = ["–", "–", "–", "2", "done", "–", "–", "–", f"{tmp_path}/b"]
    assert capsys.readouterr().out.splitlines()[2].split() == cells
