"""`fedpurin resume RUN_DIR`: the command, and a stored configuration with single options replaced.

Owns: the options of the command and what its overrides become. Does not own: which options may change (run/resume.py),
carrying out the run (run/start.py). Imports neither torch nor lightning: a mistake is refused in a second.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedpurin.cli.text import Help
from fedpurin.config import Config, ConfigError
from fedpurin.run.compose import compose_config, config_groups
from fedpurin.run.growing import check_places
from fedpurin.run.place import LogFile
from fedpurin.run.resume import FREE, check_not_from_python
from fedpurin.run.start import run
from fedpurin.run.stored_config import read_config
from fedpurin.run.trust import check_targets
from fedpurin.run.world import external_world


def main(arguments: Sequence[str]) -> int:
    """`fedpurin resume RUN_DIR [option=value ...]`."""
    parser = argparse.ArgumentParser(
        prog="fedpurin resume",
        description="Continue the run in RUN_DIR from its newest sound checkpoint, with the configuration it began\n"
        "with. The result has the same bits as a run that was never interrupted.",
        epilog="Examples:\n"
        "  fedpurin resume outputs/2026-05-04/10-15-00\n"
        "  fedpurin resume runs/a trainer.rounds=300      extend a finished run\n"
        "  fedpurin resume runs/a trainer.devices=4       on another number of processes\n"
        "  fedpurin resume runs/a logger=wandb            tracked from here on, with the rounds before\n"
        "  fedpurin resume --trust runs/a                 its model or method is a class of your own\n\n"
        "Options that would change the science are refused by name; free are: "
        + " ".join(name for name in FREE if name != "choices"),
        formatter_class=Help,
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the run's folder (hydra.run.dir)")
    parser.add_argument("overrides", metavar="option=value", nargs="*", help="free options to change")
    parser.add_argument("--trust", action="store_true", help="run classes of your own that config.yaml names")
    given = parser.parse_args(list(arguments))
    check_places(given.run_dir)
    stored = read_config(given.run_dir)
    check_not_from_python(stored, given.run_dir)
    if not given.trust:
        check_targets(stored, given.run_dir, given.overrides)
    config = with_overrides(stored, given.overrides)
    external_world(config.trainer.devices, config.trainer.num_nodes)

    set_up_logging(given.run_dir)
    run(config, given.run_dir)
    return 0


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """The configuration with single options replaced, continuing.

    Raises:
        ConfigError: not an option, or not a value for it.
    """
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"{override}: this is not an override; write option=value")
        if override.startswith(("+", "~")):
            bare = override.lstrip("+~")
            raise ConfigError(f"{override}: a run that has begun has all of its options; write {bare}, without a sign")
    stored = json.loads(json.dumps(config.to_mapping()))
    chosen, single = _chosen_groups(overrides, stored.keys())
    try:
        merged: Any = OmegaConf.to_container(
            OmegaConf.merge(OmegaConf.create(stored | chosen), OmegaConf.from_dotlist(single))
        )
    except OmegaConfBaseException as error:
        raise ConfigError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from None
    return Config.from_mapping(merged | {"resume": "auto"})


def _chosen_groups(overrides: Sequence[str], options: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """Config groups chosen anew (`logger=wandb`, with that group's own options), and the overrides that are left."""
    groups = {override.partition("=")[0] for override in overrides} & config_groups().keys()
    if unfit := sorted(groups - set(options)):
        raise ConfigError(f"{unfit[0]}=...: a run that has begun takes its own options only, not {unfit[0]}s")
    theirs = [override for override in overrides if re.split(r"[.=]", override)[0] in groups]
    if not theirs:
        return {}, list(overrides)
    composed = json.loads(json.dumps(compose_config(theirs)[0].to_mapping()))
    return {group: composed[group] for group in groups}, [item for item in overrides if item not in theirs]


def set_up_logging(run_dir: Path) -> None:
    """What Hydra does for a new run: the log on the terminal and in the run folder."""
    console = logging.StreamHandler(sys.stdout)
    console.setLevel(logging.WARNING)  # rounds go to the log file; the progress callback speaks on the terminal
    handlers: list[logging.Handler] = [console]
    try:
        handlers.append(LogFile(run_dir / "fedpurin.log"))
    except OSError as error:
        raise ConfigError(f"{run_dir} cannot be written: {error.strerror}") from None
    logging.basicConfig(
        level=logging.INFO,
        format="[%(asctime)s][%(name)s][%(levelname)s] - %(message)s",
        handlers=handlers,
        force=True,
    )
