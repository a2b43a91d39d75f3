"""Options: conversion, ranges, cross-field checks, and the line that a mistake gets."""

from __future__ import annotations

from typing import Any

import pytest

from fedpurin.config import Config, ConfigError


def mapping(**groups: dict[str, Any]) -> dict[str, Any]:
    base: dict[str, Any] = {
        "data": {"name": "digits"},
        "partition": {"name": "dirichlet", "num_clients": 10},
        "model": {},
        "method": {},
        "trainer": {"rounds": 3},
    }
    for name, options in groups.items():
        base[name] = {**base.get(name, {}), **options}
    return base


def test_conversion_round_trips() -> None:
    config = Config.from_mapping(mapping(roles={"norm": ["my.norm"]}))
    assert config.roles.norm == ("my.norm",)
    assert Config.from_mapping(config.to_mapping()) == config


def test_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Config.from_mapping(mapping()).seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"program": {"tau": 1.5}}, "program.tau=1.5 is not possible: it should be less than or equal to 1"),
        ({"program": {"tau": 0.0}}, "program.tau=0.0 is not possible: it should be greater than 0"),
        ({"program": {"tua": 0.5}}, "program.tua: there is no such option"),
        ({"partition": {"alpha": 0}}, "partition.alpha=0 is not possible: it should be greater than 0"),
        (
            {"trainer": {"clients_per_round": 11}},
            "trainer.clients_per_round=11 is more than partition.num_clients=10",
        ),
        ({"trainer": {"rounds": None}}, "trainer.rounds=None is not possible: it should be a valid integer"),
        (
            {"trainer": {"devices": "some"}},
            "trainer.devices='some' is not possible: it should be a valid integer, unable to parse string as an "
            "integer, or should be 'auto'",
        ),
        (
            {"program": {"name": "budget", "budget": 2.5}},
            "program.budget=2.5 is neither a fraction (at most 1.0) nor whole bytes (an integer)",
        ),
        (
            {"program": {"density_floor": 0.6, "density_ceiling": 0.5}},
            "program.density_floor=0.6 is above program.density_ceiling=0.5",
        ),
        (
            {"program": {"name": "global", "density_floor": 0.6}},
            "program.density_floor=0.6 asks for more than program.tau=0.5 allows",
        ),
        (
            {"scores": {"order": "third"}},
            "scores.order='third' is not possible: it should be 'second', 'first', 'random', 'magnitude' or 'update'",
        ),
    ],
)
def test_a_mistake_gets_one_line(groups: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping(mapping(**groups))
    assert str(caught.value) == message


def test_a_budget_is_a_fraction_or_bytes() -> None:
    fraction = Config.from_mapping(mapping(program={"name": "budget", "budget": 0.05}))
    in_bytes = Config.from_mapping(mapping(program={"name": "budget", "budget": 20_000}))
    assert fraction.program.budget == 0.05
    assert in_bytes.program.budget == 20_000
