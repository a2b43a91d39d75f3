"""A page of runs that are judged by something else than an accuracy: everything is in that value, its way round."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from fedpurin.config import ConfigError
from fedpurin.report.comparison import Comparison, compare
from fedpurin.report.figure import Figure, Line, Points
from fedpurin.report.headline import Headline
from fedpurin.report.parts import sections
from fedpurin.report.parts.accuracy import pareto
from fedpurin.report.parts.clients import gains
from fedpurin.report.parts.overview import comparison_table
from fedpurin.report.read import read_run
from fedpurin.report.table import Table
from tests.report.synthetic import Spec, write_run


def judged_by_error(folder: Path, spec: Spec, name: str = "mse", mode: str = "min", keep: bool = False) -> Path:
    """A run whose accuracies are errors: 100 × (1 − accuracy) under `test/NAME`."""
    options = {"trainer.monitor": name, "trainer.monitor_mode": mode} | dict(spec.options)
    write_run(folder, Spec(**{**spec.__dict__, "options": options}))
    lines = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for variant in ("personalized", "sparse", "merged"):
            value = record[f"accuracy/{variant}"] if keep else record.pop(f"accuracy/{variant}")
            record[f"test/{name}/{variant}"] = None if value is None else 100 * (1 - value)
        lines.append(json.dumps(record) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    with (folder / "clients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for variant in ("personalized", "sparse", "merged"):
            value = row[f"accuracy/{variant}"] if keep else row.pop(f"accuracy/{variant}")
            row[f"test/{name}/{variant}"] = str(100 * (1 - float(value))) if value else ""
    with (folder / "clients.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """local 78 %, fedavg 83 %, the recommended rule 90 %: errors 22, 17 and 10."""
    specs = [Spec(method, seed) for method in ("local", "fedavg", "fedpurin_recommended") for seed in (1, 2)]
    return compare([read_run(judged_by_error(tmp_path / f"{s.method}{s.seed}", s)) for s in specs])


def test_the_table_is_in_the_value_and_the_lowest_is_best(comparison: Comparison) -> None:
    table = comparison_table(comparison)
    assert comparison.judged_by == Headline("test/mse", "min")
    assert table.header[:5] == ("Method", "Seeds", "Final", "To the best", "At 41.3 MB")
    assert table.header_groups[2] == ("Personalised mse (less is better)", 4)
    rows = {row[0].text: row for _, block in table.blocks for row in block}
    recommended, local = rows["fedpurin_recommended"], rows["local"]
    assert [cell.is_best for cell in (local[2], rows["fedavg"][2], recommended[2])] == [False, True, True]
    assert recommended[3].text == "best"
    assert local[3].text.startswith("+")  # its error is higher
    assert re.fullmatch(r"\+\d\S* \[−\S+, \+\S+\]", rows["fedavg"][3].text)  # not told from the best: bold, too
    group = next(group for group in comparison.groups if group.label == "fedpurin_recommended")
    finals = [run.metrics["test/mse/personalized"][-1] for run in group.runs]
    assert recommended[2].text == f"{np.mean(finals):.4g} ± {np.std(finals, ddof=1):.2g}"
    assert "Bold is the lowest final mean" in table.caption
    assert "percentage points" not in table.caption
    assert table.numbers.columns[5:7] == ("mse_final_mean", "mse_final_std")
    lowest = np.mean([run.metrics["test/mse/personalized"].min() for run in group.runs])
    row = next(row for row in table.numbers.rows if row[2] == "fedpurin_recommended")
    assert row[table.numbers.columns.index("mse_best_mean")] == pytest.approx(lowest)


def test_the_pareto_front_falls(comparison: Comparison) -> None:
    (panel,) = pareto(comparison).panels
    assert (panel.y.label, panel.y.kind) == ("Personalised mse", "number")
    points = {mark.label: (mark.x[0], mark.y[0]) for mark in panel.marks if isinstance(mark, Points)}
    sparse, dense = points["fedpurin_recommended"], points["fedavg"]
    assert sparse[0] < dense[0]  # it beats dense exchange in both: a front of one point
    assert sparse[1] < dense[1]
    assert not [mark for mark in panel.marks if isinstance(mark, Line)]
    assert "Down and to the left is better" in pareto(comparison).caption


def test_a_client_whose_error_falls_gains(comparison: Comparison) -> None:
    figure, table = gains(comparison)
    assert isinstance(figure, Figure)
    assert isinstance(table, Table)
    assert figure.panels[0].y.label == "Gain over local (mse less)"
    assert figure.caption.startswith("Each client's final mse under local minus its own, same seed")
    recommended = next(row for row in table.numbers.rows if row[1] == "fedpurin_recommended")
    group = {group.label: group for group in comparison.groups}
    expected = [
        alone.final["test/mse/personalized"] - run.final["test/mse/personalized"]
        for alone, run in zip(group["local"].runs, group["fedpurin_recommended"].runs, strict=True)
    ]
    assert recommended[5] == pytest.approx(np.mean(expected))
    assert recommended[2] == int((np.concatenate(expected) > 1e-9).sum())
    assert recommended[5] > 0


def test_nothing_on_the_page_is_called_an_accuracy(comparison: Comparison) -> None:
    for section in sections(comparison):
        for item in section.items:
            if isinstance(item, Figure):
                assert not any("ccuracy" in panel.y.label + panel.x.label for panel in item.panels)
            if isinstance(item, Figure | Table):
                assert "ccuracy" not in item.title + item.caption, item.title


def test_of_a_value_of_which_more_is_better_the_highest_is_best(tmp_path: Path) -> None:
    specs = [Spec("local", 1), Spec("fedavg", 1)]
    runs = [read_run(judged_by_error(tmp_path / s.method, s, "f1", "max")) for s in specs]
    table = comparison_table(compare(runs))
    assert table.header_groups[2][0] == "Personalised f1 (more is better)"
    assert [row[2].is_best for _, block in table.blocks for row in block] == [True, False]
    assert next(row[3].text for _, block in table.blocks for row in block) == "best"


def test_runs_of_different_headlines_take_one_that_all_recorded_or_are_refused(tmp_path: Path) -> None:
    error = read_run(judged_by_error(tmp_path / "a", Spec("fedavg"), keep=True))
    accuracy = read_run(write_run(tmp_path / "b", Spec("local")))
    comparison = compare([error, accuracy])
    assert comparison.judged_by == Headline()
    assert [str(problem) for problem in comparison.problems] == [
        f"{tmp_path / 'a'}: judged by mse itself, by accuracy on this page"
    ]
    only_error = read_run(judged_by_error(tmp_path / "c", Spec("fedavg")))
    with pytest.raises(ConfigError, match=r"judged by different values cannot share a page: mse \(1, e.g. .*/c\), acc"):
        compare([only_error, accuracy])


@pytest.mark.parametrize(
    ("head", "value", "spread", "difference"),
    [
        (Headline(), "87.65", "87.65 ± 1.23", "−1.2"),
        (Headline("test/loss", "min"), "0.8765", "0.8765 ± 0.012", "−0.0123"),
    ],
)
def test_units(head: Headline, value: str, spread: str, difference: str) -> None:
    assert head.write(0.87654) == value
    assert head.write_spread(0.87654, 0.01234) == spread
    assert head.write_difference(-0.0123) == difference
    assert head.write(float("nan")) == "–"


def test_a_name_of_any_kind_makes_a_file_name() -> None:
    assert Headline("test/val/top-5 ⌀").key == "val_top_5"
    assert Headline("test/⌀").key == "value"
