"""Which run a folder holds, whether this configuration may go on with it.

Owns: the comparison of configurations, whether a run is finished and whole. Does not own: the command
(cli/resume.py), config.yaml (stored_config.py), the growing files (growing.py), the checkpoints themselves
(checkpoint.py), putting state into a run (checkpointer.py). Imports neither
torch nor lightning: a finished run is recognised, and a mistake refused, in a second.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from fedpurin.config import Config, ConfigError, name_of
from fedpurin.run import reader
from fedpurin.run.growing import LINES, check_places, is_intact
from fedpurin.run.lock import is_locked
from fedpurin.run.place import newest_checkpoint
from fedpurin.run.stored_config import read_config
from fedpurin.science import Changes, covers, marked

log = logging.getLogger(__name__)

FREE = marked(Config, Changes.NOTHING, Changes.LENGTH)
"""Options that move, extend or describe a run without changing any of its bits; all others are its science."""
MAX_NAMED = 4
RECORDS = (reader.SUMMARY, reader.ENVIRONMENT, reader.PARTITION)


def holds_run(run_dir: Path) -> bool:
    """Whether a run has left rounds or checkpoints in the folder."""
    metrics = run_dir / reader.METRICS
    return (metrics.exists() and metrics.stat().st_size > 0) or newest_checkpoint(run_dir) is not None


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
    check_places(run_dir)
    began, now = (reader.flatten(mapping.to_mapping()) for mapping in (read_config(run_dir), config))
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


def check_sweep_folder(overrides: Sequence[str], job: Sequence[str] = ()) -> None:
    """Refuse a Hydra sweep into a folder that holds runs already, before Hydra writes into any of them.

    The overrides of its first `job` say whether runs go on: launchers and experiments may set resume=auto as well.

    Raises:
        ConfigError: says how to continue the sweep.
    """
    folder = next((item.partition("=")[2] for item in overrides if item.startswith("hydra.sweep.dir=")), None)
    if folder is None or "resume=auto" in overrides or not Path(folder).is_dir():
        return
    held = sorted(path.name for path in Path(folder).iterdir() if path.is_dir() and holds_run(path))
    if held and not _goes_on(job):
        raise ConfigError(
            f"hydra.sweep.dir={folder} holds runs already ({', '.join(held[:MAX_NAMED])}): "
            "finish them with resume=auto, or choose another folder"
        )


def _goes_on(job: Sequence[str]) -> bool:
    from fedpurin.run.compose import compose_config  # Hydra, which a reader of folders does without

    try:
        return compose_config(job)[0].resume == "auto"
    except ConfigError:  # that run will be refused, and told then
        return False


def is_free(option: str) -> bool:
    return covers(FREE, option)


def is_finished(config: Config, run_dir: Path) -> bool:
    """Whether the folder's run has all the rounds that are asked for, and its files hold them undamaged."""
    if not all(reader.read_object(run_dir / name) for name in RECORDS):
        return False
    rounds = reader.read_summary(run_dir).get("rounds")
    if not is_marked_finished(run_dir) or not isinstance(rounds, int) or rounds < config.trainer.rounds:
        return False
    _, last = reader.read_ends(run_dir / reader.METRICS)
    final = run_dir / "checkpoints" / f"round-{rounds:05d}"
    if not final.exists() and newest_checkpoint(run_dir) is not None:
        return False  # the last could not be written; with none at all, they were not wanted or were cleared away
    if final.exists() and not _has_its_lines(final):
        return False
    return (
        last.get("round") == rounds - 1 and (run_dir / reader.CLIENTS).is_file() and is_intact(run_dir, final / LINES)
    )


def _has_its_lines(checkpoint: Path) -> bool:
    """Whether the copies that its manifest names are there: a record that is missing twice would not be missed."""
    files = reader.read_object(checkpoint / "manifest.json").get("files")
    return isinstance(files, dict) and all(
        (checkpoint / name).is_file() for name in files if name.startswith(f"{LINES}/")
    )


def is_marked_finished(run_dir: Path) -> bool:
    """Whether the summary says so, whatever else is there."""
    return reader.read_summary(run_dir).get("status") in reader.ENDED


def how_to_continue(run_dir: Path) -> str:
    """What to type after a run was stopped, by the checkpoints that it has left."""
    saved = newest_checkpoint(run_dir)
    if saved is None:
        return "nothing was saved, and the run starts anew (checkpoint.every=0 saves nothing)"
    return (
        f"to continue after round {int(saved.name.removeprefix('round-'))}: fedpurin resume {shlex.quote(str(run_dir))}"
    )


def note_refusal(run_dir: Path, error: ConfigError) -> None:
    """Leave a mistake in the folder that was made for the run, for `fedpurin sweep status`; never in another run's."""
    if run_dir.is_dir() and not holds_run(run_dir) and not is_locked(run_dir):
        (run_dir / reader.SUMMARY).write_text(
            json.dumps({"status": "refused", "error": str(error), "rounds": 0}) + "\n"
        )
