"""The files of configs/data, partition and model: exactly the options that exist, and models that can be made."""

from __future__ import annotations

from dataclasses import fields
from importlib import resources
from typing import Any

import pytest
from omegaconf import OmegaConf
from pydantic import TypeAdapter

from fedpurin.config import DataConfig, PartitionConfig

OWN = {("data", "custom.yaml"), ("partition", "custom.yaml")}
"""A function of the user's: its options are its own (tests/test_doors.py)."""


def entries(group: str) -> list[Any]:
    folder = resources.files("configs") / group
    return [
        pytest.param(entry.name.removesuffix(".yaml"), OmegaConf.create(entry.read_text()), id=entry.name)
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".yaml") and (group, entry.name) not in OWN
    ]


@pytest.mark.parametrize(("name", "options"), entries("data"))
def test_data(name: str, options: Any) -> None:
    config = TypeAdapter(DataConfig).validate_python(OmegaConf.to_container(options), strict=False)
    assert config.name == name
    assert list(options) == [field.name for field in fields(DataConfig) if field.name != "own"]


@pytest.mark.parametrize(("name", "options"), entries("partition"))
def test_partition(name: str, options: Any) -> None:
    config = TypeAdapter(PartitionConfig).validate_python(OmegaConf.to_container(options), strict=False)
    assert config == PartitionConfig(name=name, num_clients=10)  # type: ignore[arg-type]
    assert set(options) == {field.name for field in fields(PartitionConfig)} - {"own"}


@pytest.mark.parametrize(("name", "options"), entries("model"))
def test_model(name: str, options: Any) -> None:
    if name == "custom":
        pytest.skip("the user names the class")
    if name == "timm":
        pytest.skip("the network has a name (tests/lightning_modules/test_timm.py)")
    module = "Regressor" if name == "mlp_regression" else "ImageClassifier"
    assert options["_target_"] == f"lightning_modules.{module}"
    assert (
        options["backbone"]["_target_"]
        == f"lightning_modules.backbones.{name.removesuffix('_regression').removesuffix('_norm')}"
    )
    # The small networks on digits diverge at the paper's rate; a recurrent one learns slowly.
    lr = {"cnn": 0.03, "cnn_norm": 0.03, "mlp": 0.03, "mlp_regression": 0.01, "lstm": 0.3}.get(name, 0.1)
    assert (options["lr"], options["momentum"], options["weight_decay"]) == (lr, 0.9, 0.0)
