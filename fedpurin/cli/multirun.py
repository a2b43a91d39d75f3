"""A Hydra sweep that runs in this process: which run it is at, what failed, time left, and the table at its end.

Owns: what is told while a sweep goes. Does not own: the sweep itself (Hydra's), the state of its runs (sweep.py), the
table's columns (list.py). A run that fails is told at once and the others go on; the exit code is 1 then.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from fedpurin.cli.sweep import asked_overrides
from fedpurin.config import ConfigError
from fedpurin.run.compose import compose_sweep_folder
from fedpurin.run.effects import option_of
from fedpurin.run.folder import is_default, settle
from fedpurin.run.reader import natural_order
from fedpurin.run.resume import holds_run, is_free

log = logging.getLogger(__name__)


def sweep_folder(jobs: Sequence[Sequence[str]], arguments: Sequence[str]) -> Path | None:
    """Where a sweep goes whose command line names no folder; one that the clock names is free and made here.

    None where the command line names it, where it is no sweep, or where Hydra will refuse it.
    """
    if not jobs or any(argument.startswith("hydra.sweep.dir=") for argument in arguments):
        return None
    own = [argument for argument in arguments if argument.startswith(("hydra.", "hydra/"))]
    try:
        folder = compose_sweep_folder([*jobs[0], *own])
    except ConfigError:
        return None
    return settle(folder) if is_default(folder, ()) else folder


def keep_folders(jobs: Sequence[Sequence[str]], arguments: Sequence[str]) -> list[str]:
    """Hydra overrides that send each run of a sweep to the folder it has already, and a new one to a free number.

    The folder of just these overrides comes first, then one of the same science, which is made longer; each is given
    to one run only. Hydra numbers the folders anew at every start: `method=a,b seed=1,2` and then `seed=1,2,3` would
    put run 2 into another's folder, which is refused. None are needed where the numbers agree, or the user names the folders.
    """
    given = dict(item.partition("=")[::2] for item in arguments)
    folder = Path(given.get("hydra.sweep.dir", ""))
    if "hydra.sweep.dir" not in given or "hydra.sweep.subdir" in given or not folder.is_dir():
        return []
    held = {path.name: asked_overrides(path) for path in folder.iterdir() if holds_run(path)}
    asked = {name: own for name, own in held.items() if own is not None}
    placed = _matched([frozenset(_asked(job)) for job in jobs], {name: frozenset(own) for name, own in asked.items()})
    rest = {name: _science(own) for name, own in asked.items() if name not in placed.values()}
    left = [_science(job) if number not in placed else None for number, job in enumerate(jobs)]
    placed |= _matched(left, rest)
    numbers = (str(number) for number in itertools.count())
    free = (number for number in numbers if number not in held)
    folders = [placed.get(number) or next(free) for number in range(len(jobs))]
    if folders == [str(number) for number in range(len(jobs))]:
        return []
    # Hydra has no place for a table of folders but the job's environment; there it does no harm.
    table = [f"+hydra.job.env_set.FEDPURIN_FOLDER_{number}='{name}'" for number, name in enumerate(folders)]
    return ["hydra.sweep.subdir='${oc.select:hydra.job.env_set.FEDPURIN_FOLDER_${hydra.job.num}}'", *table]


def _matched(jobs: Sequence[frozenset[str] | None], folders: Mapping[str, frozenset[str]]) -> dict[int, str]:
    """The folder of each job that has one, by the job's number."""
    spare = {name: folders[name] for name in natural_order(folders)}
    placed: dict[int, str] = {}
    for number, job in enumerate(jobs):
        if (name := next((name for name, own in spare.items() if own == job), None)) is not None:
            placed[number] = name
            del spare[name]
    return placed


def _asked(overrides: Sequence[str]) -> list[str]:
    return [item for item in overrides if not item.startswith("resume=")]


def _science(overrides: Sequence[str]) -> frozenset[str]:
    """The overrides that tell a run's bits, whatever its length or its place."""
    return frozenset(item for item in overrides if not is_free(option_of(item)))


class Multirun:
    """Follows the runs of one sweep. A launcher that runs them in other processes leaves it silent."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.failed: list[str] = []
        self._process = os.getpid()
        self._folder: Path | None = None
        self._start = self._began = time.monotonic()
        self._ended = 0

    @property
    def is_here(self) -> bool:
        """Whether the sweep's runs take place in the process that started it."""
        return os.getpid() == self._process

    def begin(self, overrides: Sequence[str], sweep_dir: Path) -> None:
        """Say which run comes next, and the time left by the mean of those before."""
        self._folder, self._began = sweep_dir, time.monotonic()
        left = ""
        if self._ended and self.total > self._ended:
            seconds = (self._began - self._start) / self._ended * (self.total - self._ended)
            left = f"  (about {timedelta(seconds=round(seconds))} left)"
        print(f"run {self._ended + 1} of {self.total}: {' '.join(overrides)}{left}", flush=True)

    def end(self, run_dir: Path, error: BaseException | None = None) -> None:
        """Count a run; one that failed is told now, with its traceback in its own log."""
        self._ended += 1
        if error is not None:
            what = "refused" if isinstance(error, ConfigError) else "failed"
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            print(
                f"fedpurin: run {self._ended} of {self.total} {what}: {line} ({run_dir})", file=sys.stderr, flush=True
            )
            self.failed.append(run_dir.name)
            log.info("the run %s", what, exc_info=error)  # the console shows warnings only

    def stop(self) -> None:
        """After a signal or Ctrl-C: how far the sweep got, and how it goes on."""
        if self._folder is not None and self.is_here and self._ended < self.total:
            print(
                f"fedpurin: the sweep has {self._ended} of {self.total} runs; the rest, with the commands for them: "
                f"fedpurin sweep status {self._folder}",
                file=sys.stderr,
            )

    def lose_ranks(self) -> int:
        """What `close` does where the run that failed took its ranks with it, without whom no other can begin."""
        line = f"fedpurin: the ranks ended with run {self._ended}, and the sweep with them"
        print(line, file=sys.stderr, flush=True)
        return self.close()

    def close(self) -> int:
        """The sweep's table and what comes next; 1 where a run failed, else 0."""
        from fedpurin.cli.list import describe, fitting_table, sort_rows, terminal_width
        from fedpurin.run.reader import find_folders

        if self._folder is None or not self.is_here:
            return 0
        rows = [describe(path) for path in find_folders(self._folder) if path != self._folder]
        spent = timedelta(seconds=round(time.monotonic() - self._start))
        print(f"\n{self._ended} of {self.total} runs in {spent}, best first")
        print("\n".join(fitting_table(sort_rows(rows, "accuracy", reverse=False), terminal_width())))
        if self.failed:
            print(f"{len(self.failed)} failed: fedpurin sweep status {self._folder}")
        print(f"compare them: fedpurin report {self._folder}")
        return 1 if self.failed else 0
