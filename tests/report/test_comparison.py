"""Which runs are one group, what groups are called, and which runs count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedpurin.config import ConfigError
from fedpurin.report.comparison import Comparison, Spread, compare
from fedpurin.report.facts import facts
from fedpurin.report.figure import Line
from fedpurin.report.parts import costs, sweep
from fedpurin.report.parts.accuracy import pareto, pareto_front
from fedpurin.report.parts.masks import movement
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


def test_options_that_the_program_does_not_use_do_not_split_nor_name(make) -> None:  # type: ignore[no-untyped-def]
    budget = {"program__name": "budget"}
    comparison = make(
        small(program__tau=0.1),
        small(program__tau=0.1, program__budget=0.3),
        small(program__tau=0.1, program__budget=0.05, **budget),
        small(program__tau=0.7, program__budget=0.05, **budget, seed=2),
        small(program__tau=0.1, program__budget=0.2, **budget),
    )
    assert [(group.label, len(group.runs)) for group in comparison.groups] == [
        ("fedpurin budget=0.05", 2), ("fedpurin budget=0.2", 1), ("fedpurin layerwise, τ=0.1", 1),
    ]  # fmt: skip
    assert comparison.x == "program.budget"
    (figure, *_) = sweep.section(comparison).items
    assert {type(mark).__name__ for mark in figure.panels[0].marks} == {"Line", "Level"}
    (line,) = [mark for mark in figure.panels[0].marks if isinstance(mark, Line)]
    assert (line.label, line.x.tolist()) == ("fedpurin", [0.05, 0.2])


def test_panels_of_a_sweep_and_of_the_ledger_hold_one_setting(make) -> None:  # type: ignore[no-untyped-def]
    comparison = make(*(small(program__tau=tau, partition__alpha=alpha) for tau in (0.1, 0.5) for alpha in (0.1, 1.0)))
    by_option = sweep.by_option(comparison, "program.tau")
    assert [panel.title for panel in by_option.panels] == ["α=0.1"] * 3 + ["α=1"] * 3
    (by_phase,) = costs.ledger(comparison)
    assert [panel.title for panel in by_phase.panels] == ["Up, α=0.1", "Down, α=0.1", "Up, α=1", "Down, α=1"]


def test_the_pareto_line_leaves_out_what_does_no_better_than_local(make) -> None:  # type: ignore[no-untyped-def]
    comparison = make(small("local"), small("fedavg"), small(program__tau=0.1), small(program__tau=0.5))
    figure = pareto(comparison)
    drawn = [mark for mark in figure.panels[0].marks if isinstance(mark, Line)]
    local = comparison.local("")
    assert local is not None
    alone = local.runs[0].last("accuracy/personalized")
    assert all((mark.y > alone).all() for mark in drawn)
    assert pareto_front([(0.0, 0.8), (1.0, 0.7), (2.0, 0.9)]) == [(0.0, 0.8), (2.0, 0.9)]


def test_the_method_is_the_recorded_choice_or_the_class_never_the_name(make) -> None:  # type: ignore[no-untyped-def]
    def method(**options: object) -> str:
        (group,) = make(small("fedpurin_recommended", choices__method=None, **options)).groups
        return str(group.method)

    update = {"scores__source": "update"}
    assert method(method__normalise="contributors", **update, name="fedavg-digits") == "fedpurin_recommended"
    assert method(method__overlap="published", method__normalise="collaborators", name="pilot") == "fedpurin"
    assert method(method__normalise="contributors") == "fedpurin (dice, contributors)"
    assert method(method___target_="my.package.Gossip", name="local-digits") == "gossip"
    (group,) = make(small("fedpurin_recommended", name="fedpurin-digits")).groups
    assert group.method == "fedpurin_recommended"


def test_the_setting_is_told_in_short(make) -> None:  # type: ignore[no-untyped-def]
    told = dict(facts(make(small(), small(partition__alpha=0.1), small("local"))))
    assert set(told["Partition"].split(", ")) == {"dirichlet α=0.5", "dirichlet α=0.1"}
    assert (told["Data"], told["Clients"], told["Rounds"]) == ("digits", "2", "3")
    assert (told["Local epochs"], told["Learning rate"], told["Horizon β"]) == ("5", "0.1", "100")
    assert "Code" not in told  # these folders have no environment.json


def test_masks_that_move_have_a_band_over_seeds(make) -> None:  # type: ignore[no-untyped-def]
    comparison = make(small(seed=1), small(seed=2))
    (group,) = comparison.groups
    one, two = (run.masks.moved_overall for run in group.runs)
    _, panel = movement([group]).panels
    (line,) = panel.marks
    assert list(line.x) == [2.0, 3.0]
    assert line.y == pytest.approx((one[1:] + two[1:]) / 2)
    assert line.high - line.y == pytest.approx(abs(one[1:] - two[1:]) / 2**0.5)
    (single,) = movement([make(small(seed=3)).groups[0]]).panels[1].marks
    assert list(single.high) == list(single.y)
