"""Overrides to configuration, through Hydra's compose, with every mistake as one or two lines.

Owns: finding `configs/`, composing, and turning Hydra's complaints into a ConfigError. Imports neither torch nor
lightning, so that a mistake in an option is reported in a second.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedpurin.config import Config, ConfigError


def config_groups() -> dict[str, list[str]]:
    """Every config group and its choices, from the files in `configs/`."""
    root = resources.files("configs")
    groups = {}
    for folder in sorted(root.iterdir(), key=lambda entry: entry.name):
        if folder.is_dir() and not folder.name.startswith("_") and folder.name != "sweeps":  # those are W&B's
            choices = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
            if choices:
                groups[folder.name] = choices
    return groups


def compose_config(overrides: Sequence[str]) -> tuple[Config, Path]:
    """Compose and check a configuration; returns it with the run folder that Hydra would use.

    Raises:
        ConfigError: an override that does not parse, an unknown option or choice, a value out of range.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("configs", version_base="1.3", job_name="fedpurin"):
            composed = compose("config", overrides=list(overrides), return_hydra_config=True)
            HydraConfig.instance().set_config(composed)
            run_dir = Path(str(composed.hydra.run.dir))
            run = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
            run._set_parent(composed)  # for interpolations into Hydra's part
            mapping: Any = OmegaConf.to_container(run, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, overrides)) from error
    finally:
        HydraConfig.instance().cfg = None
    return to_config(mapping), run_dir


def to_config(mapping: dict[str, Any]) -> Config:
    """The frozen configuration of a composed, resolved mapping; Hydra's part and names that it interpolates go."""
    helpers = ("hydra", "experiment", "launcher", "horizon")
    options = {key: mapping[key] for key in mapping if key not in helpers}
    options["network"] = options.get("network") or None  # network=none is an empty file
    return Config.from_mapping(options)


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's complaint in one or two lines."""
    text = f"{error}\n{error.__cause__ or ''}"
    if match := re.search(r"(?:Could not find|In '[^']*': Could not find) '([^']+)'", text):
        group, _, choice = match[1].rpartition("/")
        known = config_groups().get(group.split("/")[0], [])
        return f"{group}={choice}: there is no such choice; {group} can be {', '.join(known)}"
    if match := re.search(r"Could not override '([^']+)'", text):
        option = match[1]
        if re.search(r"is not in struct|No match in the defaults list", text):
            return f"{option}: there is no such option (`fedpurin --cfg job` lists all)"
        return f"{option}: {' '.join(str(error.__cause__ or error).split())}"
    if "mismatched input" in text or "no viable alternative" in text or "LexerNoViableAlt" in text:
        return f"{_first_bad(text, overrides)}: this is not an override; write option=value"
    return " ".join(str(error).split())[:300]


def _first_bad(text: str, overrides: Sequence[str]) -> str:
    return next((override for override in overrides if override in text), " ".join(overrides))
