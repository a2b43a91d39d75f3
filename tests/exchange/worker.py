"""One rank of the tests in `test_processes.py`: python -m tests.exchange.worker SCENARIO RANK SIZE PORT OUT."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from itertools import product
from typing import Any

import torch
import torch.distributed as dist

from fedpurin.config import ExchangeConfig
from fedpurin.exchange import Exchange, Ledger, Processes, Update, close_at_exit
from fedpurin.methods.overlap import collaborators, overlap_matrix
from tests.exchange.naive import Clients

CASES = [
    *product(("direct", "on_demand"), ("collaborators", "contributors"), ("local", "global"), ("published", "dice")),
    ("on_demand", "average", "", ""),
    ("direct", "fedcac", "", "published"),
]


FEW = [("direct", "collaborators", "local", "dice"), ("on_demand", "contributors", "global", "dice"), *CASES[-2:]]


def make_clients(few: bool) -> Clients:
    """Seven of the federation's clients, which do not divide evenly; or two, so that every rank but one has none."""
    if few:
        return Clients.make([20_000, 7, 500], [1, 5], [0.5, 0.3])
    return Clients.make([20_000, 7, 500], [0, 1, 2, 3, 7, 8, 12], [0.5, 0.3, 0.6, 0.05, 0.9, 0.0, 0.4])


def run_cases(processes: Processes) -> dict[str, Any]:
    """Own clients' vectors after each case, and, gathered, everyone's bytes."""
    results: dict[str, Any] = {}
    every = [*((case, False, "float32") for case in CASES), *((case, True, "float32") for case in FEW)]
    every += [(CASES[0], False, "float8_e4m3fn"), (CASES[-1], False, "float8_e5m2")]
    for (mode, normalise, fill, kind), few, dtype in every:
        clients, ledger = make_clients(few), Ledger()
        config = ExchangeConfig(mode=mode, bucket_mib=0.2, value_dtype=dtype)  # type: ignore[arg-type]
        exchange = Exchange(config, clients.layout, processes, ledger)
        exchange.begin_round(2, clients.ids)
        own = processes.owned(clients.ids)
        vectors = clients.copies(own)
        if normalise == "average":
            mean = exchange.average(vectors, clients.samples)
            results[f"mean {few} {dtype}"] = mean
        else:
            masks = exchange.share_masks({i: clients.masks[i] for i in own})
            overlap = overlap_matrix([masks[i] for i in clients.ids], kind)  # type: ignore[arg-type]
            groups = collaborators(overlap, clients.ids, 2, 10)
            if normalise == "fedcac":
                exchange.combine_dense(vectors, masks, groups, weights=clients.samples)
            else:
                exchange.combine(
                    vectors,
                    masks,
                    groups,
                    normalise=normalise,
                    fill=fill,
                    weights=clients.samples,  # type: ignore[arg-type]
                )
        name = f"{mode} {normalise} {fill} {kind} {few} {dtype}"
        results[name] = vectors
        results[f"{name} ledger"] = dict(sorted(ledger.gather(processes).by_entry().items()))
    for few in (False, True):  # what the first participant holds, also where nobody lives
        clients = make_clients(few)
        exchange = Exchange(ExchangeConfig(), clients.layout, processes, Ledger())
        exchange.begin_round(0, clients.ids)
        own = processes.owned(clients.ids)
        results[f"mean common {few}"] = exchange.common(clients.vectors[own[0]] if own else None)
        results |= updates_and_peers(processes, few)
    results["objects"] = processes.gather_objects({"rank": processes.rank})
    results["broadcast"] = processes.broadcast_object(f"from {processes.rank}")
    results["moved_bytes"] = processes.moved_bytes
    return results


def updates_and_peers(processes: Processes, few: bool) -> dict[str, Any]:
    """What methods with updates of their own shape call; every rank gets the same."""
    clients, ledger = make_clients(few), Ledger()
    exchange = Exchange(ExchangeConfig(bucket_mib=0.2), clients.layout, processes, ledger)
    exchange.begin_round(2, clients.ids)
    everybody, own = clients.copies(clients.ids), processes.owned(clients.ids)
    updates = {i: Update(everybody[i], clients.masks[i]) for i in own}
    mean, share = exchange.average_updates(updates, clients.samples, divide_by="senders")
    after = dict(zip(clients.ids, [*clients.ids[1:], clients.ids[0]], strict=True))
    peers = exchange.send_to_peers(updates, {i: (after[i],) for i in clients.ids})
    sums = sum(received.vector * client for client, received in peers)
    accounts = dict(sorted(ledger.gather(processes).by_entry().items()))
    return {
        f"mean updates {few}": mean, f"mean share {few}": share, f"mean peers {few}": sums,
        f"peers {few} ledger": accounts,
    }  # fmt: skip


def main() -> None:
    scenario, rank, size, port, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    if scenario == "cases":
        processes = Processes()
        torch.save(run_cases(processes), f"{out}.{rank}")
        processes.private_group()
        processes.close()
        processes.close()  # again has no effect
        assert not dist.is_initialized()
        return
    if scenario == "exit":  # two runs of one script, over the same process group
        close_at_exit()
        for run in range(2):
            processes = Processes()
            assert processes.gather_objects(run) == [run] * size
        return
    processes = Processes(timeout_seconds=6.0)
    action, victim = scenario.split("-")
    processes.barrier()
    if rank == int(victim) and action == "announce":
        processes.announce("its disk is full")
        os._exit(3)
    if rank == int(victim):
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
    started = time.monotonic()
    try:
        run_cases(processes)
    except RuntimeError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        print(f"after {time.monotonic() - started:.1f} s", file=sys.stderr)
        os._exit(3)  # a lost rank leaves nothing to tidy up together


if __name__ == "__main__":
    main()
