"""`fedpurin sweep`: what has become of a sweep's runs, and the command that finishes just those that are not done.

Owns: finding a sweep's runs and the state of each, by what its folder says of itself: `.hydra/overrides.yaml` (what was
asked for), `config.yaml` (what runs there), `summary.json`, the lock. What the sweep should hold is told by
`multirun.yaml`, or for an array by `overrides.txt`. Does not own: sweep files (sweep_file.py), running anything.
Imports no torch.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedpurin.cli.sweep_file import expand, quote, read_sweep
from fedpurin.cli.text import Help, print_lines
from fedpurin.config import ConfigError
from fedpurin.run import reader
from fedpurin.run.effects import option_of
from fedpurin.run.lock import is_locked
from fedpurin.run.resume import is_free

State = Literal["done", "diverged", "running", "failed", "refused", "stopped", "missing"]
STATES: tuple[State, ...] = ("done", "diverged", "running", "failed", "refused", "stopped", "missing")
ANOTHER = "the folder holds another run"


@dataclass(frozen=True)
class Run:
    """One run of a sweep: its folder below the sweep's, what distinguishes it, and how it stands."""

    name: str
    overrides: str
    state: State
    rounds: int
    error: str = ""

    @property
    def is_blocked(self) -> bool:
        """Whether the same command would be refused again, because its folder is another run's."""
        return self.state == "refused" and self.error.startswith(ANOTHER)


def find_runs(sweep_dir: Path) -> list[Run]:
    """Every run that the sweep holds or should hold: folders in natural order, then what has no folder yet.

    Raises:
        ConfigError: the folder holds no sweep.
    """
    if not sweep_dir.is_dir():
        raise ConfigError(f"{sweep_dir}: there is no such folder")
    if (sweep_dir / "overrides.txt").exists():
        return [_inspect_task(sweep_dir, name, line) for name, line in _array_lines(sweep_dir).items()]
    folders = {str(path.relative_to(sweep_dir)): path for path in reader.find_folders(sweep_dir) if path != sweep_dir}
    jobs = wanted_jobs(multirun_overrides(sweep_dir))
    if not folders and not jobs:
        raise ConfigError(f"{sweep_dir} holds no sweep: no multirun.yaml, no overrides.txt, no run folders")
    asked = {name: asked_overrides(path) for name, path in folders.items()}
    runs = []
    for name, path in folders.items():
        own, number = asked[name], int(name) if name.isdigit() else -1
        matching = next((job for job in jobs if own is not None and _same(job, own)), None)
        if matching is not None:
            jobs[jobs.index(matching)] = []
        elif own is None and 0 <= number < len(jobs):  # a folder that says nothing: its number is all there is
            own, jobs[number] = jobs[number], []
        runs.append(inspect(path, " ".join(map(quote, own or ())), name))
    for number, job in enumerate(jobs):
        if job:
            name = str(number) if str(number) not in folders else "-"
            runs.append(Run(name, " ".join(map(quote, job)), "missing", 0))
    return sorted(runs, key=lambda run: (not run.name.isdigit(), int(run.name) if run.name.isdigit() else 0, run.name))


def inspect(run_dir: Path, overrides: str = "", name: str | None = None) -> Run:
    """How one run stands, by the files in its folder and by whether a process holds its lock."""
    summary, rounds = reader.read_summary(run_dir), reader.count_rounds(run_dir)
    status, error = summary.get("status"), str(summary.get("error", ""))
    state: State
    if is_locked(run_dir):
        state, error = "running", ""
    elif other := _holds_another(run_dir):
        state, error = "refused", f"{ANOTHER}: {other}"
    elif status == reader.FINISHED:
        state = "done"
    elif status == reader.DIVERGED:
        state, error = "diverged", "at its end every client diverged; the same options would do so again"
    elif status in ("failed", "refused"):
        state = status
    elif status is None and rounds == 0:
        state = "missing"
    else:
        state = "stopped"
        error = error or "ended without a word (killed, or the machine went down)"
    return Run(name or run_dir.name, overrides, state, rounds, error)


def command_for(sweep_dir: Path, runs: Sequence[Run]) -> str | None:
    """What to type so that just the runs which are not done get done; None where nothing is left to do.

    A run whose folder is another run's is left out.
    """
    left = [run for run in runs if run.state not in ("done", "diverged", "running") and not run.is_blocked]
    if not left:
        return None
    folder = shlex.quote(str(sweep_dir))
    if (sweep_dir / "overrides.txt").exists():
        common = sweep_dir / "common.txt"
        further = (
            [shlex.quote(line) for line in common.read_text(encoding="utf-8").splitlines()] if common.exists() else []
        )
        tasks = ",".join(run.name for run in left)
        return " ".join(
            [f"SWEEP_DIR={folder} sbatch --array={tasks} slurm/array.sbatch {folder}/overrides.txt", *further]
        )
    lines: list[str] = []
    path = "".join(f" {quote(item)}" for item in _search_path_of(sweep_dir))
    taken = {run.name for run in runs}
    spare = max([int(name) for name in taken if name.isdigit()], default=-1)
    for run in left:
        name = run.name
        if name == "-":
            spare += 1
            name = str(spare)
        where = shlex.quote(str(sweep_dir / name))
        if run.rounds or not run.overrides:
            lines.append(f"fedpurin resume {where}")
        else:
            lines.append(f"fedpurin {run.overrides}{path} hydra.run.dir={where} resume=auto")
    return "\n".join(lines)


def wanted_jobs(task: Sequence[str]) -> list[list[str]]:
    """The overrides of each run of a Hydra sweep, as its basic sweeper deals them; the order of a shuffle is open."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from fedpurin.run.compose import config_groups

    class Groups:
        """What a `glob` asks of Hydra's loader, without composing anything."""

        def get_group_options(self, group_name: str, results_filter: Any = None) -> list[str]:
            del results_filter
            return config_groups().get(group_name, [])

    if not task:
        return []
    loader: Any = Groups()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(task))
    return [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


def planned_jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The runs that a sweep's overrides ask Hydra for; none where its basic sweeper will refuse them.

    Raises:
        ConfigError: one of them is not an override.
    """
    from hydra.errors import HydraException, OverrideParseException

    from fedpurin.run.compose import explain

    task = [item for item in overrides if not item.startswith(("hydra.", "hydra/"))]
    try:
        return wanted_jobs(task)
    except OverrideParseException as error:
        raise ConfigError(explain(error, task)) from error
    except HydraException:
        return []


def check_jobs(jobs: Sequence[Sequence[str]]) -> None:
    """Refuse a sweep with an option or a choice that is not there: Hydra would end in the midst of it, with a traceback.

    Values are left to each run. Runs that name the same options and choices are composed once.

    Raises:
        ConfigError: which, and what is possible.
    """
    from fedpurin.run.compose import check_names

    distinct = {tuple(item if "." not in option_of(item) else option_of(item) for item in job): job for job in jobs}
    for job in distinct.values():
        check_names(job)


def before_sweep(jobs: Sequence[Sequence[str]]) -> list[str]:
    """What is said before a sweep starts: options without effect, runs that only repeat others."""
    from fedpurin.run.effects import sweep_remarks

    try:
        return sweep_remarks(jobs)
    except ConfigError:  # that run will be refused, and told then
        return []


def multirun_overrides(sweep_dir: Path) -> list[str]:
    """The task's overrides in multirun.yaml; none where there is no such file or it is cut off."""
    try:
        task = reader.read_yaml(sweep_dir / "multirun.yaml")["hydra"]["overrides"]["task"]
    except (reader.Unreadable, KeyError, TypeError):
        return []
    return [str(override) for override in task or ()]


def search_path(overrides: Sequence[str]) -> list[str]:
    """Of these overrides the one that says where further configurations lie."""
    return [item for item in overrides if item.startswith("hydra.searchpath=")]


def _search_path_of(sweep_dir: Path) -> list[str]:
    """The folder of configurations that the sweep was started with (--config-dir), as an override."""
    try:
        own = reader.read_yaml(sweep_dir / "multirun.yaml")["hydra"]["overrides"]["hydra"]
    except (reader.Unreadable, KeyError, TypeError):
        return []
    return search_path([str(override) for override in own or ()])


def asked_overrides(run_dir: Path) -> list[str] | None:
    """What the run was started with, whether or not it was to go on with an earlier one; None where nothing says."""
    recorded = reader.read_overrides(run_dir)
    return None if recorded is None else [item for item in recorded if not item.startswith("resume=")]


def main(arguments: Sequence[str]) -> int:
    """`fedpurin sweep status DIR` and `fedpurin sweep expand FILE`."""
    parser = argparse.ArgumentParser(
        prog="fedpurin sweep",
        description="Follow a sweep, or turn a W&B sweep file into lines for slurm/array.sbatch.",
        epilog="Examples:\n"
        "  fedpurin sweep status multirun/2026-05-04/10-15-00\n"
        "  fedpurin sweep expand configs/sweeps/tau.yaml > tau.txt\n"
        "  fedpurin sweep expand configs/sweeps/tau_beta.yaml --count 40 > tau_beta.txt",
        formatter_class=Help,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser(
        "status",
        help="which runs are done, running, failed, refused, stopped or missing, and what finishes the sweep",
        description="List a sweep's runs that are not done, with the last error, and the command that runs just them.\n"
        "The exit code is 0 when every run is done, 1 otherwise.",
        formatter_class=Help,
    )
    status.add_argument("sweep_dir", metavar="DIR", type=Path, help="hydra.sweep.dir, or the array's SWEEP_DIR")
    status.add_argument("--all", action="store_true", help="list the runs that are done as well")
    lines = commands.add_parser(
        "expand",
        help="a W&B sweep file as lines of overrides",
        description="Print a line of overrides for each run of a W&B sweep file: every combination of its values,\n"
        "or with --count draws from its values and distributions (instead of W&B's own search). Overrides in the\n"
        "file's command come first; resume, logger and hydra.* are left to the array.",
        formatter_class=Help,
    )
    lines.add_argument("file", metavar="FILE", type=Path, help="W&B sweep configuration, YAML")
    lines.add_argument("--count", metavar="N", type=int, help="draw N runs at random")
    lines.add_argument("--seed", metavar="N", type=int, help="of the draws (default 0)")
    given = parser.parse_args(list(arguments))
    if given.command == "expand":
        runs = expand(read_sweep(given.file), given.count, given.seed)
        if repeats := len(runs) - len(set(runs)):
            print(f"fedpurin: {repeats} of {len(runs)} lines repeat others", file=sys.stderr)
        print_lines(runs)
        return 0
    return show_status(given.sweep_dir, given.all)


def show_status(sweep_dir: Path, everything: bool) -> int:
    """Print the table; 0 when every run is done."""
    runs = find_runs(sweep_dir)
    counts = {state: sum(run.state == state for run in runs) for state in STATES}
    head = f"{sweep_dir}: {len(runs)} runs, " + ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    lines = [head]
    width = max([6, *(len(run.name) for run in runs)])
    for run in runs:
        if run.state != "done" or everything:
            rounds = f"{run.rounds} rounds" if run.rounds else ""
            lines.append(f"  {run.name:<{width}} {run.state:<8} {rounds:<11} {run.overrides}".rstrip())
            if run.error:
                lines.append(f"  {'':<{width}} {run.error}")
    if (command := command_for(sweep_dir, runs)) is not None:
        lines.append(f"to finish it:\n{command}")
    if blocked := sum(run.is_blocked for run in runs):
        lines.append(
            f"{blocked} cannot be finished here: give them another folder, or the options of the run in theirs"
        )
    print_lines(lines)
    return 0 if counts["done"] == len(runs) else 1


def _array_lines(sweep_dir: Path) -> dict[str, str]:
    """The runs of overrides.txt by line number, read as slurm/array.sbatch reads them."""
    text = (sweep_dir / "overrides.txt").read_text(encoding="utf-8-sig")
    lines = {str(number): line.strip() for number, line in enumerate(text.split("\n"), start=1)}
    return {number: line for number, line in lines.items() if line and not line.startswith("#")}


def _inspect_task(sweep_dir: Path, name: str, line: str) -> Run:
    run = inspect(sweep_dir / name, line, name)
    try:
        wanted = shlex.split(line)
    except ValueError as error:
        return Run(name, line, "refused", run.rounds, f"line {name} of overrides.txt cannot be split: {error}")
    asked = asked_overrides(sweep_dir / name)
    if asked is None or run.state == "running" or {w for w in wanted if not w.startswith("hydra.")} <= set(asked):
        return run
    changed = " ".join(item for item in wanted if item not in asked)
    return Run(name, line, "refused", run.rounds, f"{ANOTHER}: it was not started with {changed}")


def _same(job: Sequence[str], own: Sequence[str]) -> bool:
    return {item for item in job if not item.startswith("resume=")} == set(own)


def _holds_another(run_dir: Path) -> str:
    """What the run in the folder began with, where Hydra's record of the latest start asks for something else."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if reader.count_rounds(run_dir) == 0:
        return ""
    try:
        began = reader.read_options(run_dir)
        asked: Any = OmegaConf.create(reader.read_yaml(run_dir / reader.HYDRA / "config.yaml"))  # with interpolations
    except Exception:  # one of them is not there or not YAML: then it says nothing
        return ""
    differing = []
    for option, value in reader.flatten(began).items():
        try:
            now = OmegaConf.select(asked, option, default=value)
        except OmegaConfBaseException:  # interpolates Hydra's own part
            continue
        now = OmegaConf.to_object(now) if OmegaConf.is_config(now) else now
        if (now or None) != (value or None) and not is_free(option):  # network=none is an empty file
            differing.append(f"{option}={value}, asked for {now}")
    return "; ".join(differing[:3])
