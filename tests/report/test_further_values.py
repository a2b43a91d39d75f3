"""The errors of a regression are drawn as accuracies are."""

from __future__ import annotations

import json
from pathlib import Path

from fedpurin.report.comparison import compare
from fedpurin.report.parts.accuracy import measured_by_round
from fedpurin.report.read import read_run
from tests.report.synthetic import Spec, write_run


def with_errors(folder: Path, spec: Spec) -> Path:
    write_run(folder, spec)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for number, record in enumerate(records):
        record["test/mse/personalized"] = 4.0 / (number + 1)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_errors_by_round_have_a_figure(tmp_path: Path) -> None:
    runs = [read_run(with_errors(tmp_path / name, Spec(name, rounds=3))) for name in ("local", "fedavg")]
    figure = measured_by_round(compare(runs))
    assert figure is not None
    assert [panel.y.label for panel in figure.panels] == ["Personalised mse"]
    assert [row[-3] for row in figure.numbers.rows[:3]] == [4.0, 2.0, 4.0 / 3]
    assert len(figure.numbers.rows) == 6


def test_runs_with_nothing_but_an_accuracy_have_none(tmp_path: Path) -> None:
    assert measured_by_round(compare([read_run(write_run(tmp_path / "a", Spec("local")))])) is None
