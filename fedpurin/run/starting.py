"""Signals while a command starts: imports, data, processes, until the first round listens by itself (interruption.py).

A line, 128 + the signal's number as exit code, SLURM's requeue where the signal asks for it. Owns: these handlers, also
while the main thread waits outside of Python, for other ranks say. Does not own: Ctrl-C, which is Python's.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

from fedpurin.run.interruption import REQUEUEING, is_ignored, requeue, under_slurm

HANDLED = (*REQUEUEING, signal.SIGTERM, signal.SIGHUP)
PATIENCE_SECONDS = 3.0
"""How long the main thread may take to get to its handler."""
before_exit: list[Callable[[], None]] = []
"""What ends the processes that this one has started, where it leaves without its way out."""
_is_over = threading.Event()
_handled = threading.Event()
_is_first: Callable[[], bool] = lambda: True  # noqa: E731


def begin(is_first: Callable[[], bool]) -> None:
    """Listen from now on, in a process that is the command's own; the first rank of a run says why it ends."""
    global _is_first
    _is_first = is_first
    if threading.current_thread() is not threading.main_thread():
        return
    numbers = [number for number in HANDLED if not is_ignored(number)]
    numbers = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _exit)
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    _kept[:] = [receiver, sender]
    threading.Thread(target=_watch, args=(receiver, numbers), name="fedpurin-start", daemon=True).start()


def over() -> None:
    """The run has its parts; what comes from now on, before its first round or after its last, is no start."""
    _is_over.set()


_kept: list[socket.socket] = []


def _exit(number: int, frame: FrameType | None) -> None:
    _handled.set()
    signal.signal(number, signal.SIG_DFL)  # a second one ends at once
    _say(number)
    sys.exit(128 + number)


def _watch(receiver: socket.socket, numbers: list[signal.Signals]) -> None:
    """Leave for a main thread that does not come back to Python."""
    while number := next(iter(receiver.recv(1)), None):
        if number not in numbers or _is_over.is_set():
            continue
        if not _handled.wait(PATIENCE_SECONDS) and not _is_over.is_set():
            _say(number)
            for end in before_exit:
                end()
            os._exit(128 + number)


def _say(number: int) -> None:
    if not _is_first():
        return
    when = "outside of its rounds" if _is_over.is_set() else "while it started; the same command begins again"
    print(f"fedpurin: stopped by {signal.Signals(number).name} {when}", file=sys.stderr, flush=True)
    if number in REQUEUEING and under_slurm():
        requeue()
