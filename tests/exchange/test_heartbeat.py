"""Who notices whose end, over a real store in one process: a lost rank, a verdict, a reason, a store that is gone."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import HashStore, TCPStore, distributed_c10d  # type: ignore[attr-defined]

from fedpurin.exchange import heartbeat
from fedpurin.exchange.heartbeat import Heartbeat

Start = Callable[[int], Heartbeat]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Makes the sign of life of a rank among three, quick ones, on one store; ends them all."""
    store, made = HashStore(), []
    monkeypatch.setattr(distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(heartbeat, "INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(heartbeat, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(heartbeat, "ANSWER_SECONDS", 30.0)

    def make(rank: int) -> Heartbeat:
        made.append(Heartbeat(rank, 3))
        return made[-1]

    yield make
    for signs in made:
        signs.stop()


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_rank_whose_count_stands_still_is_lost_and_the_others_take_the_verdict_over(start: Start) -> None:
    first, second, third = start(0), start(1), start(2)
    assert first.find_lost() == []
    second.stop()
    assert first.find_lost() == [1]
    begin = time.monotonic()
    assert third.find_lost() == [1]
    assert time.monotonic() - begin < 0.9, "it was told, and need not watch for itself"


def test_rank_0_goes_on_with_a_reason_and_the_others_leave_quietly(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)  # in a run, each rank is a process
    first, second, third = start(0), start(1), start(2)
    second.announce("it is Friday")
    wait_for(lambda: first.reason and third.reason)
    assert (first.reason, second.reason, third.reason) == ("rank 1: it is Friday", None, "rank 1: it is Friday")
    assert left == [0], "rank 2 alone"
    begin = time.monotonic()
    assert first.find_lost() == []
    assert time.monotonic() - begin < 0.9, "with a reason there is nobody to search for"


def test_a_store_that_is_gone_means_that_rank_0_is_lost(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    soon = timedelta(seconds=3)
    served = [TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, timeout=soon)]
    for rank in range(3):
        served[0].add(f"fedpurin/heartbeat/{rank}", 1)
    guest = TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=soon)
    monkeypatch.setattr(distributed_c10d, "_get_default_store", lambda: guest)
    signs = start(1)
    wait_for(lambda: served[0].add("fedpurin/heartbeat/1", 0) > 3)  # it counts
    served.clear()
    wait_for(lambda: "fedpurin-heartbeat" not in {thread.name for thread in threading.enumerate()})
    assert signs.find_lost() == [0]
    signs.announce("nobody reads this")  # and nothing is raised
    assert signs.reason is None
