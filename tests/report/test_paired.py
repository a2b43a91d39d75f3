"""Paired intervals, accuracy at a number of bytes, and the table that is set by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedpurin.cli.report import main, read_runs
from fedpurin.config import ConfigError
from fedpurin.report.comparison import compare
from fedpurin.report.paired import bootstrap
from fedpurin.report.parts.overview import common_budget, comparison_table, measures, value_within
from fedpurin.report.read import read_run
from fedpurin.report.table import format_in, unit_of
from tests.report.synthetic import Spec, write_run


def test_an_interval_of_equal_gains_is_a_point_and_a_mixed_one_holds_zero() -> None:
    same = bootstrap({1: [0.5, 0.5], 2: [0.5, 0.5, 0.5]})
    assert (same.mean, same.low, same.high, same.pairs) == (0.5, 0.5, 0.5, 5)
    assert same.excludes_zero
    mixed = bootstrap({1: [0.25, -0.25, 0.125, -0.125]})
    assert (mixed.mean, mixed.excludes_zero) == (0.0, False)
    assert np.isnan(bootstrap({}).mean)
    assert bootstrap({1: [0.1, -0.3]}) == bootstrap({1: [0.1, -0.3]})


def test_seeds_that_disagree_widen_the_interval() -> None:
    """Four hundred clients in two seeds of opposite sign are two draws, not four hundred."""
    apart = bootstrap({1: [0.5] * 200, 2: [-0.5] * 200})
    assert (apart.low, apart.high) == (-0.5, 0.5)


def test_bold_is_what_cannot_be_told_from_the_best(tmp_path: Path) -> None:
    for index, method in enumerate(("local", "fedpurin_recommended", "fedper")):
        write_run(tmp_path / str(index), Spec(method, rounds=4, clients=8))
    table = comparison_table(compare(read_runs([tmp_path])[0]))
    rows = {cells[0].text: cells for _, block in table.blocks for cells in block}
    numbers = {row[2]: dict(zip(table.numbers.columns, row, strict=True)) for row in table.numbers.rows}
    for label, row in numbers.items():
        told_apart = row["to_best_high"] < 0 or row["to_best_low"] > 0
        assert rows[label][2].is_best == (not told_apart), label
    assert sum(cells[3].text == "best" for cells in rows.values()) == 1
    assert table.header[2:4] == ("Final", "To the best (pp)")
    assert table.header_groups[:3] == [("", 1), ("", 1), ("Personalised accuracy (%)", 4)]
    assert not any(cell.is_best for cells in rows.values() for cell in cells[3:])  # only what was tested is judged
    assert "Sparse (%)" in table.header
    assert {"Up (MB)", "Down (MB)"} < set(table.header)


def test_accuracy_at_a_number_of_bytes_is_that_of_the_last_round_paid_for(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", Spec("fedavg", rounds=4, clients=2)))
    accuracies = run.metrics["accuracy/personalized"]
    assert value_within(run, 16e6) == accuracies[1]  # 4 MB up and 4 MB down a client and round
    assert value_within(run, 23.9e6) == accuracies[1]
    assert np.isnan(value_within(run, 7.9e6))
    alone = read_run(write_run(tmp_path / "alone", Spec("local", rounds=4, clients=2)))
    assert value_within(alone, 1.0) == alone.last("accuracy/personalized")


def test_the_default_number_of_bytes_leaves_no_method_without_a_value(tmp_path: Path) -> None:
    write_run(tmp_path / "dense", Spec("fedavg", rounds=20, clients=2))  # 8 MB a client and round
    write_run(tmp_path / "sparse", Spec("fedpurin", rounds=20, clients=2, options={"program.tau": 0.01}))
    comparison = compare(read_runs([tmp_path])[0])
    assert common_budget(comparison) == 16e6  # a tenth of the dense one's rounds: the sparse one spends less in all
    at_bytes = next(measure for measure in measures(comparison) if measure.name == "accuracy_at_bytes")
    assert at_bytes.title == "At 16 MB"
    assert all(np.isfinite(group.spread(at_bytes.of).mean) for group in comparison.groups)


def test_the_reduction_is_against_the_whole_model_for_all_methods_alike(tmp_path: Path) -> None:
    """FedPer shares 1,000,000 of 1,250,000 parameters and sends 4 of 5 MB each way."""
    runs = [read_run(write_run(tmp_path / m, Spec(m, rounds=2, clients=2))) for m in ("local", "fedavg", "fedper")]
    table = comparison_table(compare(runs))
    assert table.header[-2:] == ("Whole", "Part")
    assert table.header_groups[-1] == ("Reduction (%)", 2)
    assert [[cell.text for cell in row[-2:]] for _, block in table.blocks for row in block] == [
        ["–", "–"], ["0.0", "0.0"], ["20.0", "0.0"],
    ]  # fmt: skip
    assert "against dense exchange of the whole model and of the part that the method shares." in table.caption
    alike = comparison_table(compare(runs[:2]))
    assert alike.header[-1] == "Reduction (%)"
    assert "against dense exchange of the whole model. At a number" in alike.caption


def test_a_column_of_bytes_has_one_unit() -> None:
    assert unit_of([54_119.0, 1_400_000.0, 0.0, float("nan")]) == ("kB", 1e3)
    assert [format_in(count, 1e3) for count in (54_119, 1_400_000, 0, float("nan"))] == ["54.1", "1,400", "0", "–"]
    assert [format_in(count, 1e3) for count in (27_000, 3_000, 456)] == ["27.0", "3.00", "0.456"]


def test_a_skipped_run_is_listed_with_the_error_that_it_recorded(tmp_path: Path) -> None:
    write_run(tmp_path / "0", Spec(rounds=1, clients=2))
    failed = write_run(tmp_path / "1", Spec(rounds=1, clients=2))
    (failed / "metrics.jsonl").write_text("")
    (failed / "summary.json").write_text('{"status": "failed", "error": "OutOfMemoryError: CUDA"}')
    _, (problem,) = read_runs([tmp_path])
    assert problem.what == "metrics.jsonl holds no complete round; it recorded: OutOfMemoryError: CUDA"


def test_a_number_of_bytes_is_required(tmp_path: Path) -> None:
    write_run(tmp_path / "0", Spec(rounds=1, clients=2))
    with pytest.raises(ConfigError, match="--at-bytes many: a number of bytes is required, such as 50e6"):
        main([str(tmp_path), "--out", str(tmp_path / "out"), "--at-bytes", "many"])
