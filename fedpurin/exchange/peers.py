"""Who the other ranks are as processes of this machine, so that a stopped one is not left behind for ever.

Owns: telling a process from another that got its number later, ending a stopped one (state T: by SIGSTOP, a debugger
that went, a terminal). Does not own: finding out who is lost (heartbeat.py). Linux only; elsewhere nobody is a peer.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
from pathlib import Path

log = logging.getLogger(__name__)

PROC = Path("/proc")
STOPPED = "T"
STATE, START_TICKS = 0, 19  # of /proc/PID/stat, behind the name
SET_PARENT_DEATH_SIGNAL = 1


def describe_self() -> list[str]:
    """This machine's boot, the name space of its process numbers, the number, and when it began; empty if not known."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return [boot, os.readlink(PROC / "self/ns/pid"), str(os.getpid()), _stat(os.getpid())[START_TICKS]]
    except OSError:
        return []


def end_if_stopped(peer: list[str], rank: int) -> bool:
    """Kill a rank of this machine that is stopped: its run is over, and nobody else would ever wake it."""
    me = describe_self()
    if not me or len(peer) != len(me) or peer[:2] != me[:2] or peer == me:
        return False
    pid = int(peer[2])
    try:
        stat = _stat(pid)
        if stat[START_TICKS] != peer[3] or stat[STATE] != STOPPED:
            return False
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return False
    log.error("rank %d (process %d) was stopped, and is ended", rank, pid)
    return True


def wake_when_parent_ends() -> None:
    """Ask for SIGCONT when the process that started this one ends: whoever was stopped then notices, and ends too."""
    try:
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGCONT.value)
    except (OSError, AttributeError):  # not Linux
        return


def _stat(pid: int) -> list[str]:
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
