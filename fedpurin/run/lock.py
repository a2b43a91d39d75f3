"""One process at a time in a run folder: an advisory lock that the kernel drops with the process that held it.

Owns: `RunLock` over the folder's `.lock`, and who of several ranks takes it. Does not own: what may be done with the
folder (resume.py). The file stays behind and means nothing by itself, so a crash needs no cleaning up.

Kept instead of a lock-file package: the file names its holder (process, machine, SLURM job) for the message of whoever
is refused, whether a run goes on is asked with a shared lock of a moment, without the right to write, and only the first
of several ranks takes it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import time
from pathlib import Path

from fedpurin.config import ConfigError

log = logging.getLogger(__name__)

NAME = ".lock"
ATTEMPTS, PAUSE_SECONDS = 20, 0.05


class RunLock:
    """The right to write into a run folder, held from `acquire` to `release` or to the end of the process."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / NAME
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock, or name who has it.

        Raises:
            ConfigError: another process works in this folder, or the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # No link, since it is written. Python closes it in every child that it starts.
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise ConfigError(f"hydra.run.dir={self.path.parent} cannot be written: {error.strerror}") from None
        try:
            _take(file)
        except BlockingIOError:
            os.close(file)
            raise ConfigError(f"hydra.run.dir={self.path.parent} is in use by {self._holder()}") from None
        except OSError as error:  # a file system without locks: better unguarded than not at all
            log.warning("%s: no lock on this file system (%s); keep a second run away", self.path, error.strerror)
        job = {name: os.environ[name] for name in ("SLURM_JOB_ID",) if name in os.environ}
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"pid": os.getpid(), "machine": platform.node(), **job}).encode(), 0)
        self._file = file

    def release(self) -> None:
        """Give the lock back; again has no effect."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _holder(self) -> str:
        try:
            holder = json.loads(self.path.read_text())
            job = f", SLURM job {holder['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in holder else ""
            return f"process {holder['pid']} on {holder['machine']}{job}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


def _take(file: int) -> None:
    """Take the lock, again and again for a while: whoever looks (`is_locked`) has a part of it for a moment."""
    for attempt in range(ATTEMPTS):
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(PAUSE_SECONDS)


def is_locked(run_dir: Path) -> bool:
    """Whether a living process works in the folder now."""
    try:
        file = os.open(run_dir / NAME, os.O_RDONLY | os.O_NONBLOCK)  # also of another user's run; no wait for a pipe
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def is_first_process() -> bool:
    """False in the ranks that Fabric, torchrun or srun started beside the first one, which takes the lock."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID") if "SLURM_STEP_ID" in os.environ else ("RANK", "LOCAL_RANK")
    return all(int(os.environ.get(name, "0")) == 0 for name in ranks)
