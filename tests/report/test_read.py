"""Run folders as they come: whole, cut by a kill, resumed, broken, empty."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedpurin.cli.report import read_runs
from fedpurin.report.folders import find_run_folders
from fedpurin.report.read import BrokenRun, read_run
from tests.report.synthetic import Spec, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", Spec(rounds=5, clients=3))


def test_a_whole_run_is_read_without_a_note(folder: Path) -> None:
    run = read_run(folder)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert (run.method, run.data, run.seed, run.status, run.notes) == ("fedpurin", "digits", 1, "finished", ())
    np.testing.assert_array_equal(run.rounds, range(5))
    np.testing.assert_array_equal(run.metrics["bytes/up"], [record["bytes/up"] for record in records])
    assert run.last("accuracy/personalized") == records[-1]["accuracy/personalized"]
    assert run.final["accuracy/personalized"].mean() == pytest.approx(records[-1]["accuracy/personalized"])
    assert (run.is_complete, run.uses_masks) == (True, True)
    assert run.partition.train.shape == (3, 4)
    assert run.masks.density.shape == (5, 8)
    assert [chosen.round for chosen in run.masks.chosen] == [0, 1, 2, 4]


def test_lines_cut_by_a_kill_are_noted_and_the_whole_ones_used(folder: Path) -> None:
    for name, cut in (("metrics.jsonl", 7), ("clients.csv", 3), ("masks.jsonl", 9)):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-cut])
    run = read_run(folder)
    np.testing.assert_array_equal(run.rounds, range(4))
    assert not run.is_complete
    assert run.notes == (
        "metrics.jsonl: line 5 cut off or broken, the 4 whole lines are used",
        "clients.csv: the last row is cut off and not used",
        "masks.jsonl: line 6 cut off or broken, the 5 whole lines are used",
    )


def test_rounds_without_their_metrics_line_do_not_count_for_clients(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2]))
    run = read_run(folder)
    expected = json.loads(lines[1])["accuracy/personalized"]
    assert run.final["accuracy/personalized"].mean() == pytest.approx(expected)


def test_the_later_line_of_a_repeated_round_counts(folder: Path) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"round": 2, "accuracy/personalized": 0.25}) + "\n")
    run = read_run(folder)
    np.testing.assert_array_equal(run.rounds, range(5))
    assert run.metrics["accuracy/personalized"][2] == 0.25


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda run: (run / "config.yaml").unlink(), "config.yaml is missing"),
        (lambda run: (run / "config.yaml").write_text("a: [1,"), "config.yaml cannot be read"),
        (lambda run: (run / "config.yaml").write_text(""), "config.yaml is empty"),
        (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl is missing"),
        (lambda run: (run / "metrics.jsonl").write_text('{"rou'), "metrics.jsonl holds no complete round"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_says_why(folder: Path, spoil: object, why: str) -> None:
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(BrokenRun, match=why):
        read_run(folder)


@pytest.mark.parametrize("name", ["clients.csv", "summary.json", "partition.json", "masks.jsonl"])
@pytest.mark.parametrize("content", [None, b"", b"\x00\xff{]", b'{"round": 0}\n'])
def test_other_files_may_be_missing_or_broken(folder: Path, name: str, content: bytes | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    assert len(read_run(folder).rounds) == 5


def test_folders_are_found_in_natural_order_and_once(tmp_path: Path) -> None:
    for name in ("10", "2", "deep/er/run"):
        write_run(tmp_path / name, Spec(rounds=1, clients=2))
    (tmp_path / "3" / ".hydra").mkdir(parents=True)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "report.html").touch()
    found, problems = find_run_folders([tmp_path, tmp_path / "2", tmp_path / "absent", tmp_path / "old"])
    assert [folder.name for folder in found] == ["2", "3", "10", "run"]
    assert [problem.what for problem in problems] == ["there is no such folder", "holds no run"]


def test_broken_folders_are_reported_beside_the_usable_ones(tmp_path: Path) -> None:
    write_run(tmp_path / "0", Spec(rounds=1, clients=2))
    (tmp_path / "1" / ".hydra").mkdir(parents=True)
    runs, problems = read_runs([tmp_path])
    assert len(runs) == 1
    assert [(problem.path.name, problem.what, problem.skipped) for problem in problems] == [
        ("1", "config.yaml is missing", True)
    ]
