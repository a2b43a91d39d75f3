"""Options without effect get a line, alone and in a sweep; the choices stay on record."""

from __future__ import annotations

import pytest

from fedpurin import methods
from fedpurin.cli.sweep import before_sweep, planned_jobs
from fedpurin.run.compose import compose_config, config_groups
from fedpurin.run.effects import MASK_METHODS, remarks


def said(*overrides: str) -> list[str]:
    return remarks(compose_config(overrides)[0], overrides)


def test_the_methods_with_masks_are_those_whose_class_needs_them() -> None:
    for choice in config_groups()["method"]:
        target = compose_config([f"method={choice}"])[0].method["_target_"]
        assert getattr(methods, target.rpartition(".")[2]).needs_masks == (choice in MASK_METHODS), choice


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["method=local", "program=budget"], "program has no effect: method=local exchanges no masks"),
        (["method=fedavg", "scores.order=first"], "scores.order has no effect: method=fedavg exchanges no masks"),
        (["method=local", "exchange.value_dtype=float16"], "exchange.value_dtype has no effect: method=local sends"),
        (
            ["partition=dirichlet", "partition.classes_per_client=3"],
            "partition.classes_per_client has no effect: partition=dirichlet does not read it (pathological do)",
        ),
        (["data.root=/data"], "data.root has no effect: data=digits does not read it (fashion_mnist and cifar10 and"),
        (
            ["data=cifar10", "data.test_share=0.3"],
            "data.test_share has no effect: data=cifar10 does not read it (arrays",
        ),
        (["partition.file=a.json"], "partition.file has no effect: partition=dirichlet does not read it (file do)"),
        (["partition=iid", "partition.alpha=3"], "partition.alpha has no effect: partition=iid does not read it"),
        (["partition.volume.floor=3"], "partition.volume.floor has no effect: partition.volume.name=equal"),
        (["program.gap_tolerance=0.1"], "program.gap_tolerance has no effect: program=layerwise does not read it"),
        (["checkpoint.every=0", "checkpoint.keep=3"], "checkpoint.keep has no effect: checkpoint.every=0 saves none"),
        (["checkpoint.monitor=acuracy/merged"], "checkpoint.monitor=acuracy/merged is no entry of metrics.jsonl"),
    ],
)
def test_an_option_without_effect_gets_one_line(overrides: list[str], line: str) -> None:
    lines = said(*overrides)
    assert len(lines) == 1
    assert lines[0].startswith(line)
    assert "\n" not in lines[0]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["program=budget", "program.budget=0.05", "scores.cutoff=0.0"],
        ["method=fedavg", "network=fixed", "partition.alpha=0.1", "checkpoint.monitor=null"],
        ["partition=pathological", "partition.classes_per_client=3"],
        ["partition.volume.name=lognormal", "partition.volume.sigma=0.5"],
        ["data=fashion_mnist", "data.root=/data", "data.download=false", "data.image_size=16"],
        ["data=custom", "data._target_=my.data", "data.root=/data"],
        ["method._target_=my.Method", "program.tau=0.3"],
    ],
)
def test_an_option_with_effect_gets_none(overrides: list[str]) -> None:
    assert said(*overrides) == []


def test_a_sweep_says_what_it_would_repeat() -> None:
    sweep = ["-m", "method=local,fedavg,fedpurin", "program.tau=0.1,0.3,0.5", "seed=1,2", "hydra.sweep.dir=x"]
    assert before_sweep(planned_jobs(sweep)) == [
        "program.tau has no effect in 6 of 18 runs: method=local exchanges no masks, so it has no program and no "
        "scores (and is swept)",
        "program.tau has no effect in 6 of 18 runs: method=fedavg exchanges no masks, so it has no program and no "
        "scores (and is swept)",
        "8 of 18 runs would repeat others",
    ]
    assert before_sweep(planned_jobs(["-m", "method=local,fedavg", "seed=1,2"])) == []
    assert planned_jobs(["--cfg", "job"]) == []


def test_the_choices_are_recorded() -> None:
    choices = compose_config(["name=pilot", "program=global"])[0].choices
    assert (choices["method"], choices["program"], choices["data"]) == ("fedpurin_recommended", "global", "digits")
    own = compose_config(["method=fedavg", "method._target_=my.Method"])[0]
    assert own.choices["method"] == "my.Method"
