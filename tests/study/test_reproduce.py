"""From finished run folders to numbers, page and confirmation; what lies apart stays apart."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fedpurin.cli import reproduce
from fedpurin.report.figure import Level, Line
from fedpurin.report.paired import Interval
from fedpurin.study import figure, page
from fedpurin.study.compare import ContrastNumbers, confirm, evaluate
from fedpurin.study.plan import Measured, PlannedRun, Study
from fedpurin.study.results import collect, read_results, write_results
from fedpurin.study.runner import run_missing
from fedpurin.study.store import Store, code_version
from tests.study.synthetic import store_at, study, write_run

GAINS = {"a": [0.5, 0.75], "b": [0.75, 1.0]}


def filled(root: Path) -> tuple[Study, Store, list[PlannedRun]]:
    """Every run of the sample study: b is 0.25 above a for every client of every seed."""
    sample, store = study(), store_at(root)
    runs = sample.runs()
    for run in runs:
        write_run(store, run, GAINS[run.cell.variant], megabytes=0 if run.cell.variant == "a" else 3)
    return sample, store, runs


def test_numbers_of_a_cell_and_of_a_comparison(tmp_path: Path) -> None:
    sample, store, runs = filled(tmp_path)
    numbers = evaluate(sample, collect((run, store.folder(run)) for run in runs))
    cell = next(cell for cell in numbers.cells if (cell.setting, cell.variant) == ("hard", "b"))
    assert (cell.seeds, cell.accuracy.mean, cell.worst, cell.above, cell.below) == (2, 0.875, 0.75, 1.0, 0.0)
    assert (cell.gain.low, cell.gain.high, cell.gain.pairs, cell.megabytes) == (0.25, 0.25, 4, 3.0)
    assert [(item.setting, item.verdict) for item in numbers.contrasts] == [("easy", "better"), ("hard", "better")]


def test_rows_survive_their_files(tmp_path: Path) -> None:
    _, store, runs = filled(tmp_path / "runs")
    results = collect((run, store.folder(run)) for run in runs)
    write_results(tmp_path, "sample", results)
    again = read_results(tmp_path, "sample")
    assert again is not None
    assert again.clients == results.clients
    assert [row.code for row in again.runs] == ["c0de"] * 8
    assert math.isnan(again.runs[0].network_seconds)
    assert read_results(tmp_path, "other") is None
    assert (tmp_path / "sample.csv").read_text().splitlines()[:2] == [
        "setting,variant,seed,client,num_train,final,best",
        "easy,a,1,0,40,0.5,0.5",
    ]


def test_a_figure_joins_the_variants_of_a_curve_by_their_bytes(tmp_path: Path) -> None:
    drawn = replace(study(), figure="bytes", curves={"rule": ["b"]}, seeds=[1])
    store = store_at(tmp_path)
    for run in drawn.runs():
        write_run(store, run, GAINS[run.cell.variant], megabytes=0 if run.cell.variant == "a" else 3)
    numbers = evaluate(drawn, collect((run, store.folder(run)) for run in drawn.runs()))
    level, line = figure._against_bytes(drawn, numbers)[0].marks
    assert isinstance(level, Level)
    assert (level.label, level.y) == ("a (sends nothing)", 0.625)
    assert isinstance(line, Line)
    assert (line.label, line.x.tolist(), line.y.tolist()) == ("rule", [3e6], [0.875])


def test_a_committed_number_outside_its_interval_is_not_confirmed(tmp_path: Path) -> None:
    sample, store, runs = filled(tmp_path / "old")
    committed = evaluate(sample, collect((run, store.folder(run)) for run in runs))
    assert all(item.is_confirmed for item in confirm(committed, committed))
    other = store_at(tmp_path / "new")
    for run in runs:
        write_run(other, run, [0.5, 0.75], megabytes=0 if run.cell.variant == "a" else 4)
    now = evaluate(sample, collect((run, other.folder(run)) for run in runs))
    wrong = [item for item in confirm(committed, now) if not item.is_confirmed]
    told = {item.what: item.detail for item in wrong if "hard" in item.what}
    assert list(told) == ["accuracy of b, hard", "bytes of b, hard", "b − a, hard"]
    assert told["accuracy of b, hard"] == "0.6250, committed 0.8750 [0.7500, 1.0000]"
    assert told["bytes of b, hard"] == "4.00 MB, committed 3.00 MB"
    assert "better, now no difference" in wrong[-1].detail


def test_an_interval_that_holds_zero_is_no_difference() -> None:
    assert ContrastNumbers("", "b", "a", Interval(0.1, -0.01, 0.2, 9)).verdict == "no difference"
    assert ContrastNumbers("", "b", "a", Interval(-0.1, -0.2, -0.01, 9)).verdict == "worse"
    assert ContrastNumbers("", "b", "a", Interval(math.nan, math.nan, math.nan, 0)).verdict == "not run"


def test_results_of_other_code_are_named_and_not_used(tmp_path: Path) -> None:
    _, store, runs = filled(tmp_path)
    newer = store_at(tmp_path, "n3w")
    assert {newer.state(run) for run in runs} == {"missing"}
    assert newer.others(runs) == [f"{tmp_path / 'c0de-da7a'}: 8 results of code version c0de, kept apart and not used"]
    assert store.others(runs) == []


def test_comments_make_no_other_code_version_and_code_does(tmp_path: Path) -> None:
    file = tmp_path / "fedpurin" / "a.py"
    file.parent.mkdir()
    (tmp_path / "fedpurin" / "cli").mkdir()
    versions = []
    for text in ('"""One."""\nx = 1  # why\n', '"""Two."""\nx = 1\n', "x = 2\n"):
        file.write_text(text)
        versions.append(code_version(tmp_path))
    assert versions[0] == versions[1] != versions[2]
    (tmp_path / "fedpurin" / "cli" / "b.py").write_text("y = 1\n")
    assert code_version(tmp_path) == versions[2]


def test_the_page_is_rewritten_between_its_marks_only() -> None:
    text = "# Results\n\nMine.\n\n" + page.begin_mark("x") + "\nold\n" + page.end_mark("x") + "\n\nAlso mine.\n"
    assert page.rewrite(text, "x", "new") == text.replace("\nold\n", "\nnew\n")
    assert page.rewrite(text, "y", "added").startswith(text.rstrip())
    assert page.signed(-0.0123) == "−1.2"
    assert page.signed(-0.0001) == "0.0"


def test_the_section_says_what_was_run_and_what_follows(tmp_path: Path) -> None:
    sample, store, runs = filled(tmp_path)
    results = collect((run, store.folder(run)) for run in runs)
    text = page.section(sample, results, evaluate(sample, results), None)
    assert "8 runs, seeds 1, 2 (2 a number)" in text
    assert "| `b` | 87.5 [75.0, 100.0] | 0.0 | 75.0 | +25.0 [+25.0, +25.0] | 100 / 0 | 3.0 |" in text
    assert "| `b` − `a` | hard | +25.0 [+25.0, +25.0] | 4 | better |" in text
    assert "**What remains unknown.** Everything else." in text


def fail_or_die(overrides: tuple[str, ...], folder: str) -> str:
    """Stands in for a run: one fails, one takes its process with it, the others end well."""
    if "seed=1" in overrides and "method=local" in overrides:
        return "no data"
    if "seed=1" in overrides and "partition.alpha=0.1" in overrides:
        os._exit(9)
    return ""


def test_a_run_that_fails_or_dies_is_told_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpurin.study.runner.run_one", fail_or_die)
    lines: list[str] = []
    outcomes = run_missing(store_at(tmp_path), study().runs(), 2, lines.append)
    errors = sorted(outcome.error for outcome in outcomes if outcome.error)
    assert errors == ["its process ended without a word (killed, or out of memory)", "no data", "no data"]
    assert len(lines) == 8
    assert any("a, easy, seed 1: FAILED: no data" in line for line in lines)


def test_what_another_command_finished_meanwhile_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpurin.study.runner.run_one", fail_or_die)
    store, runs = store_at(tmp_path), study().runs()
    write_run(store, runs[0], [0.5])
    lines: list[str] = []
    outcomes = run_missing(store, runs[:2], 1, lines.append)
    assert [(outcome.elsewhere, outcome.error) for outcome in outcomes] == [(True, ""), (False, "")]
    assert lines[0].startswith("[1/2] a, easy, seed 1: left to another process")


def wait_or_end(overrides: tuple[str, ...], folder: str) -> str:
    """Stands in for a run: one that ends at once, and others that take a minute."""
    if not ("seed=1" in overrides and "method=local" in overrides and "partition.alpha=1.0" in overrides):
        time.sleep(60)
    Path(folder).mkdir(parents=True)
    (Path(folder) / "summary.json").write_text('{"status": "finished"}')
    return ""


def test_ctrl_c_ends_the_present_run_begins_no_other_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(line: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedpurin.study.runner.run_one", wait_or_end)
    store, runs = store_at(tmp_path), study().runs()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_missing(store, runs, 1, press)
    assert time.monotonic() - start < 50
    assert [store.state(run) for run in runs] == ["done"] + ["missing"] * 7
    told = reproduce.how_to_go_on(store, runs, ["field", "--jobs", "2"])
    assert told == "fedpurin: interrupted with 1 of 8 runs done; go on with fedpurin reproduce field --jobs 2"
    unsaved = [replace(run, overrides=(*run.overrides, "checkpoint.every=0")) for run in runs]
    told = reproduce.how_to_go_on(store, unsaved, ["field"])
    assert told.endswith("go on with fedpurin reproduce field (a run under way begins anew: checkpoint.every=0)")


SCRIPT = """
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--rows", type=int)
parser.add_argument("--out", type=pathlib.Path)
given = parser.parse_args()
if given.rows == 0:
    raise SystemExit("no rows")
(given.out / "t.md").write_text("# A title\\n\\n| rows |\\n| --- |\\n" + f"| {given.rows} |\\n")
"""


def test_a_measured_study_is_its_script_s_table_once_a_code_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    timed = Measured(
        name="timed", title="Seconds", question="How long?", measure=[str(script), "--rows", "7"], table="t.md"
    )
    store = store_at(tmp_path / "runs")
    given = reproduce._parser().parse_args(["timed", "--out", str(tmp_path / "out")])
    assert reproduce.show_status(store, {}, [timed]) == 1
    assert reproduce.conclude_measured(timed, store, given) == 0
    assert "| rows |\n| --- |\n| 7 |" in (tmp_path / "out" / "docs" / "results.md").read_text()
    assert reproduce.show_status(store, {}, [timed]) == 0
    assert f"timed: {script} --rows 7, done" in capsys.readouterr().out
    script.write_text("raise SystemExit('changed')")
    assert reproduce.conclude_measured(timed, store, given) == 0  # measured already with this code
    newer = store_at(tmp_path / "runs", "n3w")
    assert reproduce.conclude_measured(timed, newer, given) == 1
    assert "script.py --rows 7 ended with code 1: changed" in capsys.readouterr().out
    told = store_at(tmp_path / "runs", "n4w").others([])
    assert f"{tmp_path / 'runs' / 'c0de-measured'}: 1 results of code version c0de, kept apart and not used" in told


def test_many_missing_runs_are_named_up_to_a_dozen(tmp_path: Path) -> None:
    store, runs = store_at(tmp_path), replace(study(), seeds=[1, 2, 3, 4]).runs()
    lines = reproduce.missing_lines(store, runs)
    assert len(lines) == 13
    assert lines[0] == f"  missing: a, easy, seed 1 ({store.folder(runs[0])})"
    assert lines[-1] == "  and 4 more"


def test_a_missing_run_is_a_line_of_the_job_array_into_its_folder(tmp_path: Path) -> None:
    store, runs = store_at(tmp_path), study().runs()
    line = reproduce.array_line(store, runs[0])
    assert line.split() == [
        "data=digits", "method=local", "partition.alpha=1.0", "seed=1", "trainer.rounds=2", "resume=auto",
        f"hydra.run.dir={store.folder(runs[0])}",
    ]  # fmt: skip


def test_missing_runs_leave_page_and_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, store, runs = filled(tmp_path / "runs")
    given = reproduce._parser().parse_args(["sample", "--out", str(tmp_path / "out")])
    (store.folder(runs[0]) / "summary.json").write_text('{"status": "failed", "error": "disk full"}')
    assert (store.state(runs[0]), store.error(runs[0])) == ("failed", "disk full")
    assert reproduce.conclude(sample, runs, store, given) == 1
    told = capsys.readouterr().out
    assert f"  failed: a, easy, seed 1 ({store.folder(runs[0])})\n1 of 8 runs are not there" in told
    assert not (tmp_path / "out").exists()
    assert reproduce.conclude(sample, runs[1:], store, given) == 0
    assert (tmp_path / "out" / "docs" / "results.md").read_text().count(page.begin_mark("sample")) == 1
    assert reproduce.conclude(sample, runs[1:], store, given) == 0
    assert "committed numbers that were run again are confirmed" in capsys.readouterr().out
