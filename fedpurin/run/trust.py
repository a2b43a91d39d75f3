"""Which classes a run folder may name: `config.yaml` calls what stands under `_target_`, and may come from anybody.

Owns: the names that are harmless whatever their arguments, and the refusal of all others. Does not own: calling them
(build.py). Imports none of them: to import is to run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpurin.config import Config, ConfigError

TRUSTED = re.compile(
    r"fedpurin\.methods(\.[a-z]\w*)?\.[A-Z]\w*"
    r"|callbacks(\.[a-z]\w*)?\.[A-Z]\w*"
    r"|lightning_modules(\.[a-z]\w*)?\.[A-Z]\w*"
    r"|lightning_modules\.backbones(\.[a-z]\w*)?\.[a-z]\w*"
    r"|torch\.(nn|optim)\.[A-Z]\w*"
    r"|torchvision\.models\.[a-z]\w*"
)
"""Methods, callbacks, modules and networks. Not the whole packages: `torch.os.system` is in one of them too."""


def check_targets(config: Config, run_dir: Path, overrides: Sequence[str]) -> None:
    """Refuse a stored configuration that would call what the user has not named.

    Raises:
        ConfigError: names the option, and the switch for a run that is the user's own.
    """
    named = {value for _, _, value in (override.partition("=") for override in overrides)}
    for option, value in foreign(config.to_mapping(), named):
        raise ConfigError(
            f"{run_dir}: its {option}={value} would run code from outside fedpurin; if the run is yours, or you trust "
            f"whom it comes from: fedpurin resume --trust {run_dir}"
        )


def foreign(options: Mapping[str, Any], named: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Options that call something else, or whose value is an interpolation, which may turn into a call."""
    for option, value in _leaves(options, ""):
        target = option.endswith("_target_") and not (TRUSTED.fullmatch(str(value)) or value in named)
        if target or "${" in option or (isinstance(value, str) and "${" in value and value not in named):
            yield option, str(value)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{path}.{index}")
    else:
        yield path, value
