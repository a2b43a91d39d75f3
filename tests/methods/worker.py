"""A script that runs the tiny federation once with each method: python -m tests.methods.worker DEVICES OUT METHOD…

With two devices Lightning starts it a second time, as rank 1. Each rank writes what its clients hold.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedpurin.local.client import Client
from fedpurin.run.build import build
from tests.methods.tiny import TEST, TRAIN, Tiny, composed


def run(method: str, folder: Path, devices: int) -> dict[str, Any]:
    """Digests of own clients, and the records without wall-clock columns, after three rounds with three of four clients."""
    config = composed(method)
    trainer = replace(config.trainer, devices=devices, rounds=3, local_epochs=1, clients_per_round=3)
    federation = build(replace(config, trainer=trainer), folder, module=Tiny(), train=TRAIN, test=TEST)
    federation.run()
    records = [{name: v for name, v in row.items() if not name.endswith("seconds")} for row in federation.history]
    return {"clients": {i: digest(client) for i, client in federation.clients.items()}, "records": records}


def digest(client: Client) -> str:
    """Of every bit that a client keeps."""
    kept = {"vector": client.vector, **client.buffers, **client.extra}
    kept |= {} if client.mask is None else {"mask": client.mask}
    found = hashlib.sha256()
    for name, tensor in sorted(kept.items()):
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def main() -> None:
    devices, out, methods = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    results = {method: run(method, out / method, devices) for method in methods}
    torch.save(results, out / f"rank{os.environ.get('LOCAL_RANK', '0')}")


if __name__ == "__main__":
    main()
