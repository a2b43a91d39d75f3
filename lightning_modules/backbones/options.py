"""A backbone of a mapping, as an exported checkpoint holds it: {"_target_": "lightning_modules.backbones.cnn", …}."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

PACKAGE = "lightning_modules.backbones"


def of_options(options: Mapping[str, Any]) -> nn.Module:
    """The network that `_target_` names among ours, and no other function: a checkpoint may come from anybody.

    Raises:
        ValueError: it names another.
    """
    target, arguments = options.get("_target_"), {key: value for key, value in options.items() if key != "_target_"}
    package, _, name = str(target).rpartition(".")
    known = import_module(PACKAGE)
    if package != PACKAGE or name not in known.__all__:
        raise ValueError(
            f"backbone: {target} is none of {PACKAGE} ({', '.join(known.__all__)}); give the network itself"
        )
    network: nn.Module = getattr(known, name)(**arguments)
    return network
