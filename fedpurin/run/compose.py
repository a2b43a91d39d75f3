"""Overrides to configuration, through Hydra's compose, with every mistake as one or two lines.

Owns: finding `configs/`, composing, and turning Hydra's complaints into a ConfigError. Imports neither torch nor
lightning, so that a mistake in an option is reported in a second.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedpurin.config import Config, ConfigError, did_you_mean
from fedpurin.run.reader import flatten

RECORDED = ("data", "partition", "model", "program", "exchange", "network", "method", "experiment")
"""Groups whose choice goes into config.yaml."""


def config_groups() -> dict[str, list[str]]:
    """Every config group and its choices, from the files in `configs/`."""
    root = resources.files("configs")
    groups = {}
    for folder in sorted(root.iterdir(), key=lambda entry: entry.name):
        if folder.is_dir() and not folder.name.startswith("_") and folder.name not in ("sweeps", "study"):  # no groups
            choices = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
            if choices:
                groups[folder.name] = choices
    return groups


def compose_config(overrides: Sequence[str]) -> tuple[Config, Path]:
    """Compose and check a configuration; returns it with the run folder that Hydra would use.

    Raises:
        ConfigError: an override that does not parse, an unknown option or choice, a value out of range.
    """
    mapping, hydra, run_dir = _compose(overrides, "run")
    return to_config(mapping, hydra), run_dir


def run_overrides(arguments: Sequence[str]) -> list[str] | None:
    """The overrides of a run or sweep, in which `--config-dir DIR` has become Hydra's search path.

    None where any other flag stands: Hydra shows something.

    Raises:
        ConfigError: there is no such folder.
    """
    overrides, folder, left = [], None, iter(arguments)
    for argument in left:
        flag, _, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            given = value or next(left, "")
            folder = Path(given)
            if not given or not folder.is_dir():
                raise ConfigError(f"--config-dir {given}: there is no such folder")
        elif argument.startswith("-"):
            return None
        else:
            overrides.append(argument)
    if folder is None:
        return overrides
    if any(item.startswith("hydra.searchpath=") for item in overrides):
        raise ConfigError("--config-dir and hydra.searchpath=... both name folders: put both into hydra.searchpath")
    url = f"file://{folder.resolve()}".replace("'", "\\'")
    return [*overrides, f"hydra.searchpath=['{url}']"]


def check_names(overrides: Sequence[str]) -> None:
    """Raise ConfigError where an option or a choice is not there; no value is checked."""
    _compose(overrides, "sweep")


def compose_sweep_folder(overrides: Sequence[str]) -> Path:
    """The folder that Hydra would give a sweep with such a run.

    Raises:
        ConfigError: as `compose_config`, but no value is checked.
    """
    return _compose(overrides, "sweep")[2]


def _compose(overrides: Sequence[str], mode: Literal["run", "sweep"]) -> tuple[dict[str, Any], Any, Path]:
    """The resolved options, Hydra's own part, and the folder of a run or a sweep."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("configs", version_base="1.3", job_name="fedpurin"):
            composed = compose("config", overrides=list(overrides), return_hydra_config=True)
            HydraConfig.instance().set_config(composed)
            folder = Path(str(composed.hydra[mode].dir)).expanduser()
            run = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
            run._set_parent(composed)  # for interpolations into Hydra's part
            mapping: Any = OmegaConf.to_container(run, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: `method=3`, a group's number
        raise ConfigError(explain(error, overrides)) from error
    finally:
        HydraConfig.instance().cfg = None
    return mapping, composed.hydra, folder


def to_config(mapping: dict[str, Any], hydra: Any) -> Config:
    """The frozen configuration of a composed, resolved mapping; Hydra's part and names that it interpolates go.

    Of Hydra's part, the choices stay on record: names and classes alone do not tell which method was chosen.
    """
    helpers = ("hydra", "experiment", "launcher", "horizon", "comparison")
    options = {key: mapping[key] for key in mapping if key not in helpers}
    options["choices"] = _choices(hydra)
    options["network"] = options.get("network") or None  # network=none is an empty file
    if hydra.job.chdir:
        _stay_where_they_are(options, Path(str(hydra.runtime.cwd)))
    return Config.from_mapping(options)


def _stay_where_they_are(options: dict[str, Any], start: Path) -> None:
    """`hydra.job.chdir=true` trains in the run folder; what was named by a path seen from the start is still meant."""
    for group, option in (("data", "root"), ("partition", "file"), ("clients", "folder")):
        if given := (options.get(group) or {}).get(option):
            options[group] = options[group] | {option: str(start / Path(given).expanduser())}


def _choices(hydra: Any) -> dict[str, str]:
    """The chosen file of each group. A class that was put in its place (`method._target_=...`) is named instead."""
    chosen = {str(group): str(choice) for group, choice in hydra.runtime.choices.items() if choice is not None}
    choices = {group: choice for group, choice in chosen.items() if group in RECORDED}
    for override in hydra.overrides.task:
        option, _, value = str(override).partition("=")
        group, _, rest = option.lstrip("+").partition(".")
        if rest == "_target_" and group in choices:
            choices[group] = value
    return choices


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's complaint in one or two lines."""
    text = f"{error}\n{error.__cause__ or ''}"
    if match := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, choice = match[1].rpartition("/")
        known = sorted({*config_groups().get(group.split("/")[0], []), *_own_choices(group, overrides)})
        meant = did_you_mean(choice, known)
        return f"{group}={choice}: there is no such choice; {group} can be {', '.join(known)}{meant}"
    if match := re.search(r"Could not override '([^']+)'", text):
        option = match[1]
        if re.search(r"is not in struct|No match in the defaults list", text):
            return _no_such_option(option)
        return f"{option}: {' '.join(str(error.__cause__ or error).split())}"
    if match := re.search(r"Missing mandatory value.*?full_key: (\S+)", text, re.S):
        return f"{match[1]}: this option needs a value"
    if isinstance(error, OverrideParseException):
        bad = error.override or _first_bad(text, overrides)
        shown = bad if bad.isprintable() else repr(bad)
        hint = " (a bracket, a quote, a space or a comma is amiss)" if re.match(r"[\w.@/+~]+=", bad) else ""
        return f"{shown}: this is not an override; write option=value{hint}"
    if match := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '([^'=]+)=([^']*)'", text):
        option, values = match[1], match[2]
        listed = (
            f"; a list is written {option}=[{values}]"
            if "," in values and "(" not in values and option not in config_groups()
            else ""
        )
        return f"{option}={values}: several values are a sweep: fedpurin -m {option}={values}{listed}"
    if "Config group override must be a string" in text:
        groups = config_groups()
        bad = next((item for item in overrides if item.partition("=")[0] in groups), "")
        if not bad:
            bad = next((item for item in overrides if item.startswith("=")), " ".join(overrides))
            return f"{bad}: this is not an override; write option=value"
        group = bad.partition("=")[0]
        return f"{bad}: there is no such choice; {group} can be {', '.join(groups[group])}"
    return " ".join(str(error).split())[:300]


def _own_choices(group: str, overrides: Sequence[str]) -> list[str]:
    """The choices of a group in the user's folders of configurations (`--config-dir`)."""
    given = " ".join(item for item in overrides if item.startswith("hydra.searchpath="))
    folders = [Path(path) / group for path in re.findall(r"file://([^'\",\]]+)", given)]
    return [path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")]


def _first_bad(text: str, overrides: Sequence[str]) -> str:
    return next((override for override in overrides if override in text), " ".join(overrides))


def _no_such_option(option: str) -> str:
    """Where the option would be at home, or what was meant."""
    homes = _homes()
    group = option.partition(".")[0]
    if owners := sorted(homes.get(option, ())):
        return f"{option} belongs to {' or '.join(f'{group}={owner}' for owner in owners)}: choose it as well"
    known = [*homes, *config_groups(), *(field.name for field in fields(Config))]
    return f"{option}: there is no such option (`fedpurin --cfg job` lists all){did_you_mean(option, known)}"


def _homes() -> dict[str, set[str]]:
    """Every dotted option of the files in `configs/`, with the choices that bring it; none for config.yaml's own."""
    root = resources.files("configs")
    homes: dict[str, set[str]] = {}
    main: Any = OmegaConf.to_container(OmegaConf.create((root / "config.yaml").read_text(encoding="utf-8")))
    for option in flatten({key: value for key, value in main.items() if key not in ("defaults", "hydra")}):
        homes.setdefault(option, set())
    for group, choices in config_groups().items():
        for choice in choices if group not in ("experiment", "launcher") else ():
            text = (root / group / f"{choice}.yaml").read_text(encoding="utf-8")
            loaded: Any = OmegaConf.to_container(OmegaConf.create(text))
            is_global = text.startswith("# @package _global_")
            for option in flatten((loaded or {}) if is_global else {group: loaded or {}}):
                is_door = choice == "custom" and option == f"{group}._target_"
                if option.startswith(f"{group}.") and (is_door or "_target_" not in option):
                    homes.setdefault(option, set()).add(choice)
    return homes
