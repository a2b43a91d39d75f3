"""Which runs are one group, what groups are called, and which runs count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedpurin.config import ConfigError
from fedpurin.report.comparison import Comparison, Spread, compare
from fedpurin.report.parts.accuracy import pareto_front
from fedpurin.report.read import read_run
from tests.report.synthetic import Spec, write_run


@pytest.fixture
def make(tmp_path: Path):  # type: ignore[no-untyped-def]
    def make(*specs: Spec, x: str | None = None) -> Comparison:
        start = len(list(tmp_path.iterdir()))
        return compare([read_run(write_run(tmp_path / str(start + i), s)) for i, s in enumerate(specs)], x=x)

    return make


def small(method: str = "fedpurin", seed: int = 1, **options: object) -> Spec:
    named = {name.replace("__", "."): value for name, value in options.items()}
    return Spec(method, seed, rounds=3, clients=2, options=named)


def test_runs_that_differ_in_the_seed_only_are_a_group(make) -> None:  # type: ignore[no-untyped-def]
    comparison = make(small(seed=2), small(seed=1), small("local"), small(seed=3, trainer__devices=2, name="other"))
    assert [(group.label, [run.seed for run in group.runs]) for group in comparison.groups] == [
        ("local", [1]),
        ("fedpurin", [1, 2, 3]),
    ]


def test_groups_are_called_by_what_differs(make) -> None:  # type: ignore[no-untyped-def]
    comparison = make(
        small(program__tau=0.9), small(program__tau=0.1), small("fedavg"), small("fedpurin_recommended"), x="tau"
    )
    assert [group.label for group in comparison.groups] == [
        "fedavg", "fedpurin τ=0.1", "fedpurin τ=0.9", "fedpurin_recommended",
    ]  # fmt: skip
    assert comparison.x == "program.tau"
    assert comparison.swept["program.tau"] == [0.1, 0.9]


def test_mask_options_do_not_split_methods_without_masks(make) -> None:  # type: ignore[no-untyped-def]
    comparison = make(small("fedavg", program__tau=0.1), small("fedavg", program__tau=0.9))
    assert [group.label for group in comparison.groups] == ["fedavg"]
    assert list(comparison.not_counted.values()) == [f"repeats {comparison.groups[0].runs[0].path}"]


def test_settings_compete_apart(make) -> None:  # type: ignore[no-untyped-def]
    comparison = make(small(partition__alpha=1.0), small(partition__alpha=0.1), small("local", partition__alpha=0.1))
    assert comparison.settings == ("α=0.1", "α=1")
    assert comparison.local("α=0.1") is not None
    assert comparison.local("α=1") is None
    styles = {group.label: group.style for group in comparison.groups}
    assert all(styles[group.label] == group.style for group in comparison.groups)


def test_a_finished_run_counts_before_a_stopped_one(make) -> None:  # type: ignore[no-untyped-def]
    stopped = Spec(seed=1, rounds=4, clients=2, stop=2)
    comparison = make(stopped, Spec(seed=2, rounds=4, clients=2))
    (group,) = comparison.groups
    assert [run.seed for run in group.runs] == [2]
    assert list(comparison.not_counted.values()) == ["stopped after round 2 of 4"]
    alone = make(stopped)
    assert [run.seed for run in alone.groups[0].runs] == [1]
    assert not alone.groups[0].is_complete


def test_curve_is_the_mean_and_sample_deviation_over_seeds(make) -> None:  # type: ignore[no-untyped-def]
    (group,) = make(small(seed=1), small(seed=2)).groups
    curve = group.curve("accuracy/personalized")
    table = np.stack([run.metrics["accuracy/personalized"] for run in group.runs])
    np.testing.assert_allclose(curve.mean, table.mean(axis=0))
    np.testing.assert_allclose(curve.std, table.std(axis=0, ddof=1))


def test_spread_by_hand() -> None:
    assert Spread.of([1.0, 3.0, float("nan")]) == Spread(2.0, 2**0.5, 2)
    assert Spread.of([5.0]).count == 1
    assert np.isnan(Spread.of([5.0]).std)


def test_different_data_sets_are_one_line(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=r"runs of different data sets .*: cifar10 \(1, .*digits \(2, "):
        make(small(), small(seed=2), small(data__name="cifar10"))


@pytest.mark.parametrize("x", ["program.budget", "nonsense", "seed"])
def test_an_unknown_x_names_what_was_swept(make, x: str) -> None:  # type: ignore[no-untyped-def]
    message = rf"--x {x}: it does not vary over these runs; these options do: .*program\.tau \(0\.1, 0\.5\)"
    with pytest.raises(ConfigError, match=message):
        make(small(program__tau=0.1), small(), x=x)


def test_many_variants_leave_the_best_of_each_method_in_colour(make) -> None:  # type: ignore[no-untyped-def]
    sweep = [small(program__tau=tau / 20, method__beta=beta) for tau in range(1, 8) for beta in (5, 9)]
    comparison = make(small("local"), small("fedavg"), *sweep)
    drawn = [group for group in comparison.groups if group.drawn]
    assert len(drawn) == 10
    assert {group.method for group in drawn} == {"local", "fedavg", "fedpurin"}


def test_pareto_front_by_hand() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (3.0, 0.8), (4.0, 0.9), (2.5, 0.7)]
    assert pareto_front(points) == [(1.0, 0.5), (2.5, 0.7), (3.0, 0.9)]
