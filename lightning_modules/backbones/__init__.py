"""Networks that turn images, vectors or tokens into logits: functions of `num_classes` and of what else the data tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_modules.backbones.cnn import cnn
from lightning_modules.backbones.lstm import lstm
from lightning_modules.backbones.mlp import mlp
from lightning_modules.backbones.resnet import resnet8, resnet10, resnet18, resnet50
from lightning_modules.backbones.vit import vit_b_16

__all__ = ["cnn", "lstm", "mlp", "resnet8", "resnet10", "resnet18", "resnet50", "vit_b_16"]


def of_options(options: Mapping[str, Any]) -> nn.Module:
    """The network that `_target_` names among these, and no other function: a checkpoint may come from anybody.

    Raises:
        ValueError: it names another.
    """
    target, arguments = options.get("_target_"), {key: value for key, value in options.items() if key != "_target_"}
    package, _, name = str(target).rpartition(".")
    if package != __name__ or name not in __all__:
        raise ValueError(f"backbone: {target} is none of {__name__} ({', '.join(__all__)}); give the network itself")
    network: nn.Module = globals()[name](**arguments)
    return network
