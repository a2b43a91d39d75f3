"""Stopped processes of this machine are told from running ones, from others of their number, and from strangers."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedpurin.exchange import peers

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc is Linux's")


def stat(pid: int) -> list[str]:
    """Fields 3 and on of proc(5): the state is the first, the start in ticks the twentieth."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def described(child: subprocess.Popen[bytes]) -> list[str]:
    boot, names, *_ = peers.describe_self()
    return [boot, names, str(child.pid), stat(child.pid)[19]]


def stop(child: subprocess.Popen[bytes]) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    wait_for(lambda: stat(child.pid)[0] == "T")


def test_a_process_describes_itself() -> None:
    assert peers.describe_self()[2:] == [str(os.getpid()), stat(os.getpid())[19]]
    assert peers.describe_self() == peers.describe_self()


def test_a_stopped_process_is_ended_and_named(child: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture) -> None:
    peer = described(child)
    assert not peers.end_if_stopped(peer, 3), "it runs"
    stop(child)
    with caplog.at_level(logging.ERROR):
        assert peers.end_if_stopped(peer, 3)
    assert child.wait(30) == -signal.SIGKILL
    assert caplog.messages == [f"rank 3 (process {child.pid}) was stopped, and is ended"]
    assert not peers.end_if_stopped(peer, 3), "it is gone"


@pytest.mark.parametrize("field", [0, 1, 3])
def test_a_process_of_another_machine_or_of_the_same_number_is_left_alone(
    field: int, child: subprocess.Popen[bytes]
) -> None:
    stop(child)
    peer = described(child)
    peer[field] += "0"
    assert not peers.end_if_stopped(peer, 3)
    assert child.poll() is None


def test_nobody_is_a_peer_of_itself_or_without_proc(
    child: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not peers.end_if_stopped(peers.describe_self(), 0)
    assert not peers.end_if_stopped([], 0)
    stop(child)
    peer = described(child)
    monkeypatch.setattr(peers, "PROC", tmp_path)
    assert peers.describe_self() == []
    assert not peers.end_if_stopped(peer, 3)
    assert child.poll() is None


def test_a_stopped_process_wakes_when_its_parent_ends(tmp_path: Path) -> None:
    """The parent starts the child, waits until it has stopped itself, and ends."""
    awake = tmp_path / "awake"
    (tmp_path / "child.py").write_text(
        "import os, pathlib, runpy, signal\n"
        f"runpy.run_path({peers.__file__!r})['wake_when_parent_ends']()\n"  # without torch, which is slow to load
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
        f"pathlib.Path({str(awake)!r}).touch()\n"
    )
    (tmp_path / "parent.py").write_text(
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, {str(tmp_path / 'child.py')!r}])\n"
        "os.waitpid(child.pid, os.WUNTRACED)\n"
    )
    subprocess.run([sys.executable, tmp_path / "parent.py"], check=True, timeout=100)
    wait_for(awake.exists)


def test_where_there_is_no_prctl_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def without(name: object) -> object:
        asked.append(name)
        return object()

    monkeypatch.setattr(ctypes, "CDLL", without)
    peers.wake_when_parent_ends()
    assert asked == [None]
