"""Signals that end a run early, and SLURM's requeue.

Owns: noticing USR1, USR2, TERM and HUP, the time that is left after one, asking SLURM to run the job again. Does not own:
saving (checkpointer.py), the sbatch options that send the signals (slurm/).

USR1 and USR2 come before a time limit (`--signal=USR1@120`; submitit uses USR2): the round is finished, a checkpoint
saved, the job requeued. TERM comes from preemption, which requeues by itself, or from `scancel` and `kill`, which want
an end: the same without the requeue; so does HUP, which a terminal sends that closes. A round that does not finish
within the grace is abandoned: rank 0 requeues and leaves, and the last checkpoint stands. The first Ctrl-C is a
TERM without a grace, the second leaves at once.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from types import FrameType
from typing import Any, NoReturn

log = logging.getLogger(__name__)

REQUEUEING = (signal.SIGUSR1, signal.SIGUSR2)
SIGNALS = (*REQUEUEING, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
TERM_GRACE_SECONDS = 20.0  # SLURM's KillWait, the time between TERM and KILL, is 30 s unless the site changed it
END_SECONDS = 120.0  # how long a requeued job may wait for SLURM to end it


class Interrupted(RuntimeError):
    """The run stopped after a signal, with its state saved. `leave` ends the process as the signal's sender expects."""

    def __init__(self, number: int, rounds_done: int, rank: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} after {rounds_done} rounds")
        self.number, self.rank = number, rank

    def leave(self) -> NoReturn:
        """Requeue where SLURM runs us and the signal asks for it; exit with 128 + the signal's number."""
        if self.number in REQUEUEING and under_slurm():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if self.rank == 0 and not requeue():
                raise SystemExit(128 + self.number)
            time.sleep(END_SECONDS)  # SLURM ends every rank; whoever left first would look like a failure
        raise SystemExit(128 + self.number)


class Interruption:
    """Listens for signals between `install` and `uninstall`. Only a process's main thread can."""

    def __init__(self, grace_seconds: float, rank: int) -> None:
        self.grace_seconds, self.rank = grace_seconds, rank
        self.received: int | None = None
        self._timer: threading.Timer | None = None
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            handled = [number for number in SIGNALS if not is_ignored(number)]
            self._previous = {number: signal.signal(number, self._receive) for number in handled}

    def uninstall(self) -> None:
        """Put the former handlers back and forget the deadline."""
        self.in_time()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def in_time(self) -> None:
        """The round is over and the state is being saved: nothing is abandoned any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.received is not None:
                raise KeyboardInterrupt
            self.received = number
            if self.rank == 0:
                log.warning("Ctrl-C: finishing the round, then saving; again to leave at once")
            return
        if self.received not in (None, signal.SIGINT):
            return
        self.received = number
        grace = self.grace_seconds if number in REQUEUEING else min(self.grace_seconds, TERM_GRACE_SECONDS)
        if self.rank == 0:
            log.warning("%s: finishing the round, at most %.0f s, then saving", signal.Signals(number).name, grace)
            self._timer = threading.Timer(grace, self._abandon)
            self._timer.daemon = True
            self._timer.start()

    def _abandon(self) -> None:
        """In a thread, because the main one trains: leave without it, whatever it is doing."""
        assert self.received is not None
        log.warning("the round did not end within the grace and is abandoned; the last checkpoint stands")
        if self.received in REQUEUEING and under_slurm() and requeue():
            time.sleep(END_SECONDS)
        os._exit(128 + self.received)


def is_ignored(number: int) -> bool:
    """Whether the run was started to outlive its terminal (`nohup`)."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


def under_slurm() -> bool:
    return "SLURM_JOB_ID" in os.environ and shutil.which("scontrol") is not None


def job_name() -> str:
    """This job as scontrol names it; a task of an array by the array's id."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def requeue() -> bool:
    """Ask SLURM to run this job again; False, with a line in the log, where it will not."""
    done = subprocess.run(["scontrol", "requeue", job_name()], capture_output=True, text=True)
    if done.returncode != 0:
        log.error("SLURM does not requeue job %s: %s", job_name(), done.stderr.strip())
        return False
    log.warning("job %s is requeued and continues in this run folder", job_name())
    return True
