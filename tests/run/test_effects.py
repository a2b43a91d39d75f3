"""Options without effect get a line, alone and in a sweep; the choices stay on record."""

from __future__ import annotations

import inspect
import sys

import pytest

from fedpurin import methods
from fedpurin.cli.sweep import before_sweep, planned_jobs
from fedpurin.config import ConfigError
from fedpurin.run.compose import compose_config, config_groups
from fedpurin.run.effects import (
    HEAD_METHODS,
    MASK_METHODS,
    NORM_METHODS,
    READ_IF,
    Situation,
    remarks,
    why_without_effect,
)

OURS = tuple(f"fedpurin.methods.{name}" for name in vars(methods) if name not in ("base", "overlap"))


def said(*overrides: str) -> list[str]:
    return remarks(compose_config(overrides)[0], overrides)


def test_the_methods_with_masks_are_those_whose_class_needs_them() -> None:
    for choice in config_groups()["method"]:
        target = compose_config([f"method={choice}"])[0].method["_target_"]
        assert getattr(methods, target.rpartition(".")[2]).needs_masks == (choice in MASK_METHODS), choice


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["method=fedpurin_feedback", "horizon=3"],
            "horizon has no effect: method=fedpurin_feedback has no collaboration",
        ),
        (
            ["method=fedpurin_feedback", "exchange.mode=direct"],
            "exchange.mode has no effect: method=fedpurin_feedback sends no masks",
        ),
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
        (["roles.head=backbone.9"], "roles.head has no effect: method=fedpurin_recommended treats the head like every"),
        (
            ["method=fedper", "roles.norm=[backbone.1]"],
            "roles.norm has no effect: method=fedper treats norms like every",
        ),
        (
            ["method=fedavg", "exchange.mode=direct"],
            "exchange.mode has no effect: method=fedavg sends no masks, so there",
        ),
        (["method=fedavg", "horizon=3"], "horizon has no effect: method=fedavg exchanges no masks"),
        (
            ["comparison.fill=global"],
            "comparison.fill has no effect: method=fedpurin_recommended does not read it (fedpurin",
        ),
        (
            ["comparison.pfedsd_lam=2"],
            "comparison.pfedsd_lam has no effect: method=fedpurin_recommended does not read it",
        ),
        (
            ["trainer.executor=serial", "trainer.cohort=2"],
            "trainer.cohort has no effect: trainer.executor=serial trains",
        ),
        (["clients.folder=/tmp"], "clients.folder has no effect: clients.store=device writes no files (disk does)"),
        (
            ["trainer.monitor_mode=min"],
            "trainer.monitor_mode has no effect: it belongs to trainer.monitor, and without",
        ),
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
        ["method._target_=my.Method", "program.tau=0.3", "roles.head=x", "exchange.mode=direct"],
        ["method=fedper", "roles.head=backbone.9"],
        ["method=fedbn", "roles.norm=[backbone.1]"],
        ["exchange.mode=direct", "horizon=3", "clients.store=disk", "clients.folder=/tmp"],
        ["method=pfedsd", "comparison.pfedsd_lam=2"],
        ["trainer.monitor=mse", "trainer.monitor_mode=min"],
    ],
)
def test_an_option_with_effect_gets_none(overrides: list[str]) -> None:
    assert said(*overrides) == []


def test_a_sweep_says_what_it_would_repeat() -> None:
    sweep = ["method=local,fedavg,fedpurin", "program.tau=0.1,0.3,0.5", "seed=1,2", "hydra.sweep.dir=x"]
    assert before_sweep(planned_jobs(sweep)) == [
        "program.tau has no effect in 6 of 18 runs: method=local exchanges no masks, so it has no program and no "
        "scores (and is swept)",
        "program.tau has no effect in 6 of 18 runs: method=fedavg exchanges no masks, so it has no program and no "
        "scores (and is swept)",
        "8 of 18 runs would repeat others",
    ]
    assert before_sweep(planned_jobs(["method=local,fedavg", "seed=1,2"])) == []


def test_the_choices_are_recorded() -> None:
    choices = compose_config(["name=pilot", "program=global"])[0].choices
    assert (choices["method"], choices["program"], choices["data"]) == ("fedpurin_recommended", "global", "digits")
    own = compose_config(["method=fedavg", "method._target_=my.Method"])[0]
    assert own.choices["method"] == "my.Method"


def test_the_methods_that_treat_heads_and_norms_apart_are_those_whose_code_speaks_of_them() -> None:
    words = {HEAD_METHODS: ("is_head", "head_path", "sum_features("), NORM_METHODS: ("is_norm", "weight_matrices(")}
    for choice in config_groups()["method"]:
        target = compose_config([f"method={choice}"])[0].method["_target_"]
        bases = getattr(methods, target.rpartition(".")[2]).__mro__
        code = "".join(inspect.getsource(sys.modules[base.__module__]) for base in bases if base.__module__ in OURS)
        for listed, spoken in words.items():
            assert any(word in code for word in spoken) == (choice in listed), choice


def test_no_option_of_a_choice_that_was_not_made_passes_without_a_line() -> None:
    """Every mark of the configuration, under every choice that does not read it."""
    settings = {
        "program.name": ("program", ("layerwise", "global", "budget")),
        "partition.name": ("partition", ("dirichlet", "iid", "pathological")),
        "partition.volume.name": ("partition.volume.name", ("equal", "lognormal")),
        "scores.source": ("scores.source", ("gradient", "update")),
    }
    checked = 0
    for option, mark in READ_IF.items():
        group, choices = settings.get(mark.option, ("", ()))
        for choice in choices:
            now = Situation.of(compose_config(["method=fedpurin", f"{group}={choice}"])[0])
            assert bool(why_without_effect(option, now)) == (choice not in mark.values), (option, choice)
            checked += 1
    assert checked > 20


def test_less_of_an_accuracy_is_never_better() -> None:
    with pytest.raises(
        ConfigError, match=r"trainer.monitor_mode=min with trainer.monitor=val_acc: of an accuracy more"
    ):
        compose_config(["trainer.monitor=val_acc", "trainer.monitor_mode=min"])
