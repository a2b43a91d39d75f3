"""Which run a folder holds, whether this configuration may go on with it.

Owns: the comparison of configurations, cutting the run's files back to a checkpoint. Does not own: the command
(cli/resume.py), the checkpoints themselves (checkpoint.py), putting state into a run (checkpointer.py). Imports neither
torch nor lightning: a finished run is recognised, and a mistake refused, in a second.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpurin.config import Config, ConfigError, name_of
from fedpurin.run.lock import is_locked
from fedpurin.science import Changes, covers, marked

log = logging.getLogger(__name__)

FREE = marked(Config, Changes.NOTHING, Changes.LENGTH)
"""Options that move, extend or describe a run without changing any of its bits; all others are its science."""
MAX_NAMED = 4


def holds_run(run_dir: Path) -> bool:
    """Whether a run has left rounds or checkpoints in the folder."""
    metrics = run_dir / "metrics.jsonl"
    return (metrics.exists() and metrics.stat().st_size > 0) or any((run_dir / "checkpoints").glob("round-*"))


def check_folder(config: Config, run_dir: Path) -> None:
    """Refuse a folder that holds a run which this configuration does not continue.

    Raises:
        ConfigError: names the options that differ, or says how to continue.
    """
    if not holds_run(run_dir):
        return
    if config.resume == "never":
        raise ConfigError(
            f"hydra.run.dir={run_dir} holds a run already: continue it with resume=auto or "
            f"`fedpurin resume {run_dir}`, or choose another folder"
        )
    began, now = flatten(read_config(run_dir).to_mapping()), flatten(config.to_mapping())
    changed = [name for name in sorted(began.keys() | now.keys()) if began.get(name) != now.get(name)]
    if science := [name for name in changed if not is_free(name)]:
        named = ", ".join(f"{name}={now.get(name)} (it began with {began.get(name)})" for name in science[:MAX_NAMED])
        more = f" and {len(science) - MAX_NAMED} more" if len(science) > MAX_NAMED else ""
        raise ConfigError(f"{run_dir} holds another run: {named}{more}; choose another folder, or its own options")


def check_not_from_python(config: Config, run_dir: Path) -> None:
    """Refuse on the command line to go on with a run whose parts exist only in the script that began it.

    Raises:
        ConfigError: names the parts and the call that continues the run.
    """
    parts = {"data": "train=..., test=..."} if config.data.name == "own-data" else {}
    if config.choices and "model" not in config.choices:
        parts["model"] = "module=..."
    for section in ("data", "partition", "scores", "program"):
        target = name_of(getattr(config, section).own.get("_target_", ""))
        if "<" in target or target.startswith("__main__."):  # a function that no import finds
            parts.setdefault(section, f"{section}=...")
    if parts:
        raise ConfigError(
            f"{run_dir}: its {' and '.join(parts)} came from Python; continue it there, with what it began with: "
            f'fedpurin.simulate([..., "resume=auto"], {", ".join(parts.values())}, run_dir={str(run_dir)!r})'
        )


def check_sweep_folder(overrides: Sequence[str]) -> None:
    """Refuse a Hydra sweep into a folder that holds runs already, before Hydra writes into any of them.

    Raises:
        ConfigError: says how to continue the sweep.
    """
    folder = next((item.partition("=")[2] for item in overrides if item.startswith("hydra.sweep.dir=")), None)
    if folder is None or "resume=auto" in overrides or not Path(folder).is_dir():
        return
    if held := sorted(path.name for path in Path(folder).iterdir() if path.is_dir() and holds_run(path)):
        raise ConfigError(
            f"hydra.sweep.dir={folder} holds runs already ({', '.join(held[:MAX_NAMED])}): "
            "finish them with resume=auto, or choose another folder"
        )


def is_free(option: str) -> bool:
    return covers(FREE, option)


def is_finished(config: Config, run_dir: Path) -> bool:
    """Whether the folder's run has all the rounds that are asked for."""
    try:
        summary = json.loads((run_dir / "summary.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(summary.get("status") == "finished" and summary.get("rounds", 0) >= config.trainer.rounds)


def how_to_continue(run_dir: Path) -> str:
    """What to type after a run was stopped, by the checkpoints that it has left."""
    saved = max((path.name for path in (run_dir / "checkpoints").glob("round-*")), default=None)
    if saved is None:
        return "nothing was saved, and the run starts anew (checkpoint.every=0 saves nothing)"
    return f"to continue after round {int(saved.removeprefix('round-'))}: fedpurin resume {shlex.quote(str(run_dir))}"


def note_refusal(run_dir: Path, error: ConfigError) -> None:
    """Leave a mistake in the folder that was made for the run, for `fedpurin sweep status`; never in another run's."""
    if run_dir.is_dir() and not holds_run(run_dir) and not is_locked(run_dir):
        (run_dir / "summary.json").write_text(
            json.dumps({"status": "refused", "error": str(error), "rounds": 0}) + "\n"
        )


def read_config(run_dir: Path) -> Config:
    """The configuration that a run folder was made with.

    Raises:
        ConfigError: there is none, or it is not one of this version's.
    """
    from omegaconf import OmegaConf

    path = run_dir / "config.yaml"
    try:
        mapping: Any = OmegaConf.to_container(OmegaConf.load(path))
    except OSError:
        raise ConfigError(f"{run_dir} is not a run folder: it has no config.yaml") from None
    try:
        return Config.from_mapping(mapping)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted options; an empty mapping is no option."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def appended_files(run_dir: Path) -> list[Path]:
    """The files of a run folder that grow line by line."""
    return sorted([*run_dir.glob("*.jsonl"), *run_dir.glob("*.csv")])


def cut_back(run_dir: Path, lengths: Mapping[str, int], history: Sequence[Mapping[str, Any]]) -> None:
    """Cut the growing files to the bytes they had at a checkpoint, so that no round is there twice or in part.

    `metrics.jsonl` is written anew from `history` where it has lost bytes; for another file that is a warning.
    """
    for path in appended_files(run_dir):
        kept = lengths.get(path.name, 0)
        if path.stat().st_size < kept:
            log.warning("%s has lost bytes since the checkpoint: %d of %d are left", path, path.stat().st_size, kept)
        elif kept == 0:
            path.unlink()
        else:
            os.truncate(path, kept)
    metrics = run_dir / "metrics.jsonl"
    if history and (not metrics.exists() or metrics.stat().st_size < lengths.get(metrics.name, 0)):
        metrics.write_text("".join(json.dumps(record) + "\n" for record in history))
