"""What checkpoints cost: python benchmarks/checkpoint.py [--clients 20] [--parameters 1230000] [--buffers 20]

Saves and reads back clients of that size, alone: seconds, MB/s, and the peak of memory beside the clients themselves.
With --run RUN_DIR, the share of a finished run's time that its checkpoints took, from its log and its records.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import tempfile
import time
from datetime import datetime
from pathlib import Path

import torch

from fedpurin.exchange import Processes
from fedpurin.local.client import Client
from fedpurin.run.checkpoint import Writing, find_latest
from fedpurin.run.checkpointer import CLIENTS_AT_ONCE, client_tensors, restore_client


def make_client(client_id: int, parameters: int, buffers: int) -> Client:
    vector = torch.randn(parameters, generator=torch.Generator().manual_seed(client_id))
    mask = torch.zeros(-(-parameters // 8), dtype=torch.uint8)
    indices = torch.arange(1)
    return Client(
        client_id, vector, {f"b{index}": torch.full((256,), index) for index in range(buffers)}, indices, indices, mask
    )


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(num_clients: int, parameters: int, buffers: int, folder: Path) -> dict[str, float]:
    clients = {client_id: make_client(client_id, parameters, buffers) for client_id in range(num_clients)}
    tensors = {key: value for client in clients.values() for key, value in client_tensors(client).items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    before = peak_gib()
    start = time.perf_counter()
    Writing(folder, 10, tensors, {"history": []}, Processes()).commit()
    saved = time.perf_counter() - start
    check = clients[num_clients - 1].vector.clone()
    for client in clients.values():
        client.vector.zero_()
    start = time.perf_counter()
    found = find_latest(folder, print)
    assert found is not None
    for client_id, client in clients.items():
        if client_id % CLIENTS_AT_ONCE == 0:
            part = found.read_tensors(lambda key, low=client_id: low <= int(key.split("/")[1]) < low + CLIENTS_AT_ONCE)
        restore_client(client, part, {})
    restored = time.perf_counter() - start
    assert torch.equal(clients[num_clients - 1].vector, check)
    return {
        "clients": num_clients, "parameters": parameters, "gigabytes": round(size / 1e9, 3),
        "save/seconds": round(saved, 2), "restore/seconds": round(restored, 2),
        "save MB/s": round(size / 1e6 / saved), "state GiB": round(before, 2), "peak GiB": round(peak_gib(), 2),
    }  # fmt: skip


def share_of_run(run_dir: Path) -> dict[str, float]:
    """Seconds from the first to the last record, less what the rounds themselves took: checkpoints and records."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    stamps = re.findall(r"^\[([\d\- :,]+)\]\[fedpurin\.record\]", (run_dir / "fedpurin.log").read_text(), re.MULTILINE)
    first, last = (datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f") for stamp in (stamps[0], stamps[-1]))
    total = (last - first).total_seconds()
    rounds = sum(record["round/seconds"] for record in records[1:])
    return {"run/seconds": total, "rounds/seconds": round(rounds, 2), "between rounds": round(1 - rounds / total, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--parameters", type=int, default=1_230_000)
    parser.add_argument("--buffers", type=int, default=20)
    parser.add_argument("--run", type=Path, help="a finished run's folder")
    given = parser.parse_args()
    if given.run is not None:
        print(json.dumps(share_of_run(given.run)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(given.clients, given.parameters, given.buffers, Path(folder))))


if __name__ == "__main__":
    main()
