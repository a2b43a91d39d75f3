"""What a rank of one thread, as runs have by default, holds in an exchange: its clients' state, and four buckets at most."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

WORKER = """
import json, resource, sys, threading, time
import numpy as np, torch
torch.set_num_threads(1)  # more threads merge more clients at once
from fedpurin.config import ExchangeConfig
from fedpurin.exchange import Exchange, Ledger, Processes
from fedpurin.methods.overlap import collaborators, overlap_matrix
from fedpurin.space import Layout, pack_mask

clients, size, bucket_mib, fill = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def one_round(clients, size, bucket_mib):
    layout = Layout.from_sizes([size // 4] * 4)
    masks = {i: pack_mask((torch.rand(layout.length) < 0.5) & layout.parameter_mask()) for i in range(clients)}
    vectors = {i: torch.randn(layout.length) for i in range(clients)}
    exchange = Exchange(ExchangeConfig(bucket_mib=bucket_mib), layout, Processes(), Ledger())
    exchange.begin_round(0, list(range(clients)))
    before, peak, stop = resident(), [0], threading.Event()
    def watch():
        while not stop.wait(0.005):
            peak[0] = max(peak[0], resident())
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.monotonic()
    shared = exchange.share_masks(masks)
    overlap = overlap_matrix([shared[i] for i in shared], "dice")
    groups = collaborators(overlap, list(shared), 0, 100)
    exchange.combine(vectors, shared, groups, normalise="contributors", fill=fill, weights=dict.fromkeys(groups, 1))
    stop.set()
    watcher.join()
    state = sum(v.nbytes for v in vectors.values()) + sum(m.nbytes for m in shared.values())
    return {"extra": max(peak[0], resident()) - before, "masks": sum(m.nbytes for m in shared.values()),
            "state": state, "seconds": time.monotonic() - start}

one_round(4, 1_000_000, 1.0)  # compiles or loads the loops, on all threads
print(json.dumps(one_round(clients, size, bucket_mib)))
"""


def measure(clients: int, size: int, bucket_mib: float, fill: str = "local") -> dict[str, float]:
    command = [sys.executable, "-c", WORKER, str(clients), str(size), str(bucket_mib), fill]
    result: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return result


@pytest.mark.parametrize("fill", ["local", pytest.param("global", marks=pytest.mark.slow)])
def test_an_exchange_needs_four_buckets_at_most(fill: str) -> None:
    """20 clients × 2 M parameters, 160 MB of state, in buckets of 16 MiB; the received masks are clients' state."""
    measure(20, 200_000, 16.0, fill)  # a first process compiles the loops, so that the second need not
    found = measure(20, 2_000_000, 16.0, fill)
    assert found["extra"] - found["masks"] <= 4 * 16 * 2**20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_clients_on_one_machine() -> None:
    """1,000 × 1.2 M parameters: 4.8 GB of state."""
    found = measure(1000, 1_200_000, 64.0)
    print(found)
    assert found["extra"] - found["masks"] <= 4 * 64 * 2**20
