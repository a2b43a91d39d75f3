"""Which signals a run listens to."""

from __future__ import annotations

import signal

import pytest

from fedpurin.run.interruption import Interruption


@pytest.mark.parametrize(("before", "received"), [(signal.SIG_DFL, signal.SIGHUP), (signal.SIG_IGN, None)])
def test_a_closed_terminal_ends_a_run_unless_it_was_started_with_nohup(before: signal.Handlers, received: int) -> None:
    former = signal.signal(signal.SIGHUP, before)
    listens = Interruption(grace_seconds=60.0, rank=1)
    try:
        listens.install()
        signal.raise_signal(signal.SIGHUP)
        assert listens.received == received
        listens.uninstall()
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        listens.uninstall()
        signal.signal(signal.SIGHUP, former)
