"""`fedpurin sweep`: what has become of a sweep's runs, and a W&B sweep file as lines of overrides.

Owns: finding a sweep's runs (a Hydra multirun's, or an array's over a file of overrides), the state of each from its
own folder, the command that runs what is missing. Does not own: running anything. Imports no torch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedpurin.config import ConfigError
from fedpurin.run.lock import is_locked

State = Literal["done", "running", "failed", "stopped", "missing"]
STATES: tuple[State, ...] = ("done", "running", "failed", "stopped", "missing")


@dataclass(frozen=True)
class Run:
    """One run of a sweep: its folder, what distinguishes it, and how it stands."""

    name: str
    overrides: str
    state: State
    rounds: int
    error: str = ""


def find_runs(sweep_dir: Path) -> list[Run]:
    """Every run that the sweep should have, in order.

    Raises:
        ConfigError: the folder holds no sweep.
    """
    wanted = _from_array(sweep_dir) or _from_multirun(sweep_dir)
    if not wanted:
        if not sweep_dir.is_dir():
            raise ConfigError(f"{sweep_dir}: there is no such folder")
        folders = sorted(path.parent.name for path in sweep_dir.glob("*/config.yaml"))
        if not folders:
            raise ConfigError(f"{sweep_dir} holds no sweep: no multirun.yaml, no overrides.txt, no run folders")
        wanted = dict.fromkeys(folders, "")
    return [inspect(sweep_dir / name, overrides) for name, overrides in wanted.items()]


def inspect(run_dir: Path, overrides: str = "") -> Run:
    """How one run stands, by the files in its folder and by whether a process holds its lock."""
    summary = _read_json(run_dir / "summary.json")
    rounds = _count_rounds(run_dir / "metrics.jsonl")
    status, error = summary.get("status"), str(summary.get("error", ""))
    state: State
    if is_locked(run_dir):
        state, error = "running", ""
    elif status == "finished":
        state = "done"
    elif status == "failed":
        state = "failed"
    elif status is None and rounds == 0:
        state = "missing"
    else:
        state = "stopped"
        error = error or "ended without a word (killed, or the machine went down)"
    return Run(run_dir.name, overrides, state, rounds, error)


def command_for(sweep_dir: Path, runs: Sequence[Run]) -> str | None:
    """What to type so that the sweep gets finished; None where nothing is left to do."""
    left = [run for run in runs if run.state not in ("done", "running")]
    if not left:
        return None
    folder = shlex.quote(str(sweep_dir))
    if (sweep_dir / "overrides.txt").exists():
        common = sweep_dir / "common.txt"
        further = [shlex.quote(line) for line in common.read_text().splitlines()] if common.exists() else []
        tasks = ",".join(run.name for run in left)
        return " ".join(
            [f"SWEEP_DIR={folder} sbatch --array={tasks} slurm/array.sbatch {folder}/overrides.txt", *further]
        )
    if task := _multirun_overrides(sweep_dir):
        # The finished runs are left alone, the others go on where they stopped.
        quoted = [shlex.quote(override) for override in task if not override.startswith("resume=")]
        return " ".join(["fedpurin -m", *quoted, f"hydra.sweep.dir={folder}", "resume=auto"])
    return "\n".join(f"fedpurin resume {shlex.quote(str(sweep_dir / run.name))}" for run in left)


def expand(sweep: Mapping[str, Any], count: int | None, seed: int) -> list[str]:
    """A W&B sweep's runs as lines of overrides: every combination, or `count` draws.

    Raises:
        ConfigError: a parameter that is neither a list nor a known distribution, or a distribution without a count.
    """
    parameters: Mapping[str, Mapping[str, Any]] = sweep.get("parameters") or {}
    if not parameters:
        raise ConfigError("the sweep file has no parameters")
    continuous = [name for name, options in parameters.items() if not _values(options)]
    if count is None:
        if continuous:
            raise ConfigError(f"{', '.join(continuous)}: not a list of values; say how many runs to draw with --count")
        choices = [[f"{name}={value}" for value in _values(options)] for name, options in parameters.items()]
        return [" ".join(line) for line in itertools.product(*choices)]
    dice = random.Random(seed)
    return [
        " ".join(f"{name}={_draw(name, options, dice)}" for name, options in parameters.items()) for _ in range(count)
    ]


def main(arguments: Sequence[str]) -> int:
    """`fedpurin sweep status DIR` and `fedpurin sweep expand FILE`."""
    parser = argparse.ArgumentParser(
        prog="fedpurin sweep",
        description="Follow a sweep, or turn a W&B sweep file into lines for slurm/array.sbatch.",
        epilog="Examples:\n"
        "  fedpurin sweep status multirun/2026-05-04/10-15-00\n"
        "  fedpurin sweep expand configs/sweeps/tau.yaml > tau.txt\n"
        "  fedpurin sweep expand configs/sweeps/tau_beta.yaml --count 40 > tau_beta.txt",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser(
        "status",
        help="which runs are done, running, failed, stopped or missing, and what finishes the sweep",
        description="List a sweep's runs that are not done, with the last error, and the command that runs them.\n"
        "The exit code is 0 when every run is done, 1 otherwise.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    status.add_argument("sweep_dir", metavar="DIR", type=Path, help="hydra.sweep.dir, or the array's SWEEP_DIR")
    status.add_argument("--all", action="store_true", help="list the runs that are done as well")
    lines = commands.add_parser(
        "expand",
        help="a W&B sweep file as lines of overrides",
        description="Print a line of overrides for each run of a W&B sweep file: every combination of its values,\n"
        "or with --count draws from its values and distributions (instead of W&B's own search).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    lines.add_argument("file", metavar="FILE", type=Path, help="W&B sweep configuration, YAML")
    lines.add_argument("--count", metavar="N", type=int, help="draw N runs at random")
    lines.add_argument("--seed", metavar="N", type=int, default=0, help="of the draws (default 0)")
    given = parser.parse_args(list(arguments))
    if given.command == "expand":
        print("\n".join(expand(_read_sweep(given.file), given.count, given.seed)))
        return 0
    return show_status(given.sweep_dir, given.all)


def show_status(sweep_dir: Path, everything: bool) -> int:
    """Print the table; 0 when every run is done."""
    runs = find_runs(sweep_dir)
    counts = {state: sum(run.state == state for run in runs) for state in STATES}
    print(
        f"{sweep_dir}: {len(runs)} runs, " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    )
    for run in runs:
        if run.state != "done" or everything:
            rounds = f"{run.rounds} rounds" if run.rounds else ""
            print(f"  {run.name:<6} {run.state:<8} {rounds:<11} {run.overrides}".rstrip())
            if run.error:
                print(f"         {run.error}")
    if (command := command_for(sweep_dir, runs)) is not None:
        print(f"to finish it:\n{command}")
    return 0 if counts["done"] == len(runs) else 1


def _from_array(sweep_dir: Path) -> dict[str, str]:
    """Overrides by line number, as slurm/array.sbatch names its runs."""
    path = sweep_dir / "overrides.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return {
        str(number): line for number, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")
    }


def _from_multirun(sweep_dir: Path) -> dict[str, str]:
    """Overrides by job number, as Hydra's sweeper deals them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    task = _multirun_overrides(sweep_dir)
    if not task:
        return {}
    parsed = OverridesParser.create().parse_overrides(task)
    jobs = [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    return {str(number): " ".join(job) for number, job in enumerate(jobs)}


def _multirun_overrides(sweep_dir: Path) -> list[str]:
    path = sweep_dir / "multirun.yaml"
    if not path.exists():
        return []
    import yaml

    task: list[str] = yaml.safe_load(path.read_text())["hydra"]["overrides"]["task"]
    return list(task)


def _count_rounds(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value


def _read_sweep(path: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a W&B sweep file")
    return value


def _values(options: Mapping[str, Any]) -> list[Any]:
    return list(options["values"]) if "values" in options else [options["value"]] if "value" in options else []


def _draw(name: str, options: Mapping[str, Any], dice: random.Random) -> Any:
    if values := _values(options):
        return dice.choice(values)
    try:
        low, high = options["min"], options["max"]
    except KeyError:
        raise ConfigError(f"{name}: needs values, value, or min and max") from None
    whole = isinstance(low, int) and isinstance(high, int)
    kind = options.get("distribution", "int_uniform" if whole else "uniform")
    if kind == "int_uniform":
        return dice.randint(low, high)
    if kind == "uniform":
        return round(dice.uniform(low, high), 6)
    if kind in ("log_uniform_values", "q_log_uniform_values"):
        value = math.exp(dice.uniform(math.log(low), math.log(high)))
        return (
            int(round(value / options.get("q", 1)) * options.get("q", 1)) if kind.startswith("q") else round(value, 6)
        )
    raise ConfigError(f"{name}: distribution {kind} is not known here; use uniform, int_uniform or log_uniform_values")
