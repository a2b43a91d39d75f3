"""Real gloo processes: the same bits and the same ledger on 1, 2 and 4 of them; and a rank that dies is named."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import distributed_c10d

from fedpurin.exchange import Processes, heartbeat
from tests.exchange.worker import run_cases


def start(scenario: str, size: int, out: Path) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.exchange.worker", scenario, str(rank), str(size), str(port), str(out)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return run_cases(Processes())


@pytest.mark.parametrize("size", [2, 4])
def test_same_bits_and_ledger_on_several_ranks(size: int, alone: dict[str, Any], tmp_path: Path) -> None:
    ranks = start("cases", size, tmp_path / "rank")
    assert [rank.wait(280) for rank in ranks] == [0] * size
    parts = [torch.load(f"{tmp_path / 'rank'}.{rank}") for rank in range(size)]
    for name, expected in alone.items():
        if name in ("objects", "broadcast", "moved_bytes"):
            continue
        if name.endswith("ledger"):
            assert all(part[name] == expected for part in parts), name
        elif name.startswith("mean"):
            assert all(torch.equal(part[name], expected) for part in parts)
        else:
            together = {client: vector for part in parts for client, vector in part[name].items()}
            assert sorted(together) == sorted(expected)
            assert all(torch.equal(together[client], expected[client]) for client in expected), name
    assert parts[1]["objects"] == [{"rank": rank} for rank in range(size)]
    assert [part["broadcast"] for part in parts] == ["from 0"] * size
    assert alone["moved_bytes"] == 0
    assert all(part["moved_bytes"] > 0 for part in parts)


@pytest.mark.parametrize(
    ("scenario", "size"),
    [
        ("kill-1", 2),
        pytest.param("kill-1", 3, marks=pytest.mark.slow),
        pytest.param("kill-0", 2, marks=pytest.mark.slow),
        pytest.param("stop-1", 2, marks=pytest.mark.slow),
        pytest.param("stop-0", 3, marks=pytest.mark.slow),
    ],
)
def test_a_lost_rank_is_named_by_the_others(scenario: str, size: int, tmp_path: Path) -> None:
    victim = int(scenario[-1])
    ranks = start(scenario, size, tmp_path / "rank")
    try:
        for number, rank in enumerate(ranks):
            if number != victim:
                output, _ = rank.communicate(timeout=200)
                assert output.startswith(f"RankLostError: rank {victim} of {size} did not finish the "), output
                assert f"that rank {number} waits in (exchange.timeout_seconds=6)" in output
                assert rank.returncode == 3
    finally:
        for rank in ranks:
            rank.kill()


def test_ranks_that_are_told_a_reason_end_and_rank_0_repeats_it(tmp_path: Path) -> None:
    ranks = start("announce-1", 3, tmp_path / "rank")
    outputs = [rank.communicate(timeout=280)[0] for rank in ranks]
    assert outputs[0].splitlines()[-1:] == ["RankLostError: rank 1: its disk is full"]
    assert outputs[1:] == ["", ""], "the reason is told once"
    assert [rank.returncode for rank in ranks] == [3, 3, 0]


def test_runs_of_one_script_end_in_order_when_the_script_does(tmp_path: Path) -> None:
    ranks = start("exit", 2, tmp_path / "rank")
    assert [rank.wait(280) for rank in ranks] == [0, 0]


class StoppableStore:
    """A store as rank 0 serves it: while that rank is stopped, no call returns."""

    def __init__(self) -> None:
        self.serving = threading.Event()
        self.serving.set()

    def add(self, key: str, amount: int) -> int:
        self.serving.wait()
        return amount

    def check(self, keys: list[str]) -> bool:
        return False

    def set(self, key: str, value: str) -> None:
        pass


@pytest.mark.parametrize(("rank", "lost"), [(1, [0]), (0, [])])
def test_a_silent_store_means_that_rank_0_is_lost(rank: int, lost: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    store = StoppableStore()
    monkeypatch.setattr(distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(heartbeat, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(heartbeat, "ANSWER_SECONDS", 0.2)
    signs = heartbeat.Heartbeat(rank, 2)
    store.serving.clear()
    assert signs.find_lost() == lost
    store.serving.set()
    signs.stop()


def of_size(size: int) -> Processes:
    processes = Processes()
    processes.size = size
    return processes


def test_clients_of_equal_cost_go_round_by_round() -> None:
    processes = of_size(3)
    assert [processes.owner(client) for client in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    processes.place([5.0] * 7)
    assert [processes.owner(client) for client in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    processes.place([5.0] * 7, block=2)  # blocks 01 23 45 6
    assert [processes.owner(client) for client in range(7)] == [0, 0, 1, 1, 2, 2, 0]


def test_the_costliest_clients_are_placed_first() -> None:
    processes = of_size(2)
    processes.place([1.0, 9.0, 4.0, 4.0, 2.0])
    assert [processes.owner(client) for client in range(5)] == [0, 0, 1, 1, 1]  # 10 and 10
    processes.place([1.0, 9.0, 4.0, 4.0, 2.0], block=2)  # blocks of 10, 8 and 2
    assert [processes.owner(client) for client in range(5)] == [0, 0, 1, 1, 1]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 4))
def test_no_rank_has_more_than_the_least_loaded_by_more_than_a_block(costs: list[int], size: int, block: int) -> None:
    processes = of_size(size)
    processes.place(costs, block)
    loads = [sum(c for client, c in enumerate(costs) if processes.owner(client) == rank) for rank in range(size)]
    blocks = [sum(costs[first : first + block]) for first in range(0, len(costs), block)]
    assert max(loads) - min(loads) <= max(blocks)
    assert all(processes.owner(a) == processes.owner(b) for a in range(len(costs)) for b in (a // block * block,))
