"""The runs that are missing, several side by side, each as `fedpurin` with its overrides.

Owns: the processes, what is told while they run, and that one run's failure stays its own. A worker process takes run
after run, because loading the packages takes longer than a small run; one that dies takes only its present run with it.
Does not own: which runs are missing (store.py).
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from fedpurin.study.plan import PlannedRun
from fedpurin.study.store import Store

SILENT = ("~callbacks.progress", "~callbacks.mask_statistics", "resume=auto")
"""What a run inside a study does without; none of it changes its bits."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: seconds, and the error's line where there is no result."""

    run: PlannedRun
    seconds: float
    error: str = ""
    elsewhere: bool = False
    """Another process had it in hand, or had finished it meanwhile."""


def run_missing(
    store: Store, runs: Sequence[PlannedRun], jobs: int, say: Callable[[str], None] = print
) -> list[Outcome]:
    """Carry out `runs`, `jobs` at a time; returns how each ended, in the order in which they did.

    Ctrl-C ends the present ones as it ends any run, with their state saved, and begins no other.
    """
    waiting: queue.SimpleQueue[PlannedRun] = queue.SimpleQueue()
    for run in runs:
        waiting.put(run)
    ended: list[Outcome] = []
    stop, start = threading.Event(), time.monotonic()
    workers = min(jobs, len(runs))
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    with ThreadPoolExecutor(max(workers, 1)) as threads:
        loops = [threads.submit(_work, store, waiting, outcomes, stop) for _ in range(workers)]
        try:
            for number in range(1, len(runs) + 1):
                outcome = _next(outcomes, loops)
                ended.append(outcome)
                left = (time.monotonic() - start) / number * (len(runs) - number)
                remaining = f"; about {timedelta(seconds=round(left))} left" if number < len(runs) else ""
                how = "left to another process" if outcome.elsewhere else "done"
                how = f"FAILED: {outcome.error}" if outcome.error else how
                say(f"[{number}/{len(runs)}] {describe(outcome.run)}: {how}, {outcome.seconds:.0f} s{remaining}")
        finally:
            stop.set()
            if len(ended) < len(runs):
                _end_workers(loops)
    return ended


def describe(run: PlannedRun) -> str:
    """A run in words: variant, setting, seed."""
    return ", ".join(part for part in (run.cell.variant, run.cell.setting, f"seed {run.seed}") if part)


def _end_workers(loops: Sequence[Future[None]]) -> None:
    """Ctrl-C reaches the workers by the terminal only; a TERM, which is the same to a run, by any other way too."""
    while not all(loop.done() for loop in loops):  # again, because a worker may be starting just now
        for worker in multiprocessing.active_children():
            worker.terminate()
        wait(loops, timeout=2)


def _next(outcomes: queue.SimpleQueue[Outcome], loops: Sequence[Future[None]]) -> Outcome:
    """The next run to end; a loop's own failure is raised, not waited for."""
    while True:
        try:
            return outcomes.get(timeout=1)
        except queue.Empty:
            for loop in loops:
                if loop.done():
                    loop.result()


def _work(
    store: Store,
    waiting: queue.SimpleQueue[PlannedRun],
    outcomes: queue.SimpleQueue[Outcome],
    stop: threading.Event,
) -> None:
    """One place: a process of its own, renewed where it dies, and run after run until none waits."""
    pool = _new_pool()
    try:
        while not stop.is_set():
            try:
                run = waiting.get_nowait()
            except queue.Empty:
                return
            start = time.monotonic()
            if store.state(run) in ("done", "running"):  # two commands may share a study
                outcomes.put(Outcome(run, 0.0, elsewhere=True))
                continue
            try:
                error = pool.submit(run_one, run.overrides, str(store.folder(run))).result()
            except BrokenProcessPool:
                if stop.is_set():
                    return
                error = "its process ended without a word (killed, or out of memory)"
                pool.shutdown()
                pool = _new_pool()
            outcomes.put(Outcome(run, time.monotonic() - start, error))
    finally:
        pool.shutdown(cancel_futures=True)


def _new_pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def run_one(overrides: Sequence[str], folder: str) -> str:
    """Inside a worker: one run into its folder; returns the error's line, empty when it finished."""
    from fedpurin.run.compose import compose_config
    from fedpurin.run.place import LogFile
    from fedpurin.run.record import make_folder
    from fedpurin.run.start import EveryoneDivergedError, run

    run_dir = Path(folder)
    try:
        config, _ = compose_config([*overrides, *SILENT])
        make_folder(run_dir)
        logging.basicConfig(
            level=logging.INFO,
            format="[%(asctime)s][%(name)s][%(levelname)s] - %(message)s",
            handlers=[LogFile(run_dir / "fedpurin.log")],
            force=True,
        )
        run(config, run_dir)
    except EveryoneDivergedError as lost:
        logging.getLogger(__name__).warning(str(lost))  # a result too: a rate of learning that is too large
    except Exception as error:
        logging.getLogger(__name__).error("the run failed", exc_info=error)
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ""
