"""Seconds by stage and peak memory of large networks at 224 pixels, each in a process of its own.

    python benchmarks/stress.py                              # ResNet-50 and ViT-B/16: two clients of 16 images, some minutes
    python benchmarks/stress.py --networks resnet8 --side 28 # something small
    python benchmarks/stress.py trainer.accelerator=cuda partition.num_clients=20 trainer.batch_size=64

Fashion-MNIST's images, resized. The first round is not counted. The peak is the process's largest resident set
(`getrusage`) over all rounds; on a GPU it does not hold the card's memory, which has a column of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

OPTIONS = (
    "method=fedpurin", "data=fashion_mnist", "partition.num_clients=2", "partition.train_per_client=16",
    "partition.test_per_client=8", "trainer.batch_size=8", "trainer.local_epochs=1", "trainer.threads=1", "model.lr=0.01",
)  # fmt: skip
NETWORKS = ("resnet50", "vit_b_16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="(default: %(default)s)")
    parser.add_argument("--side", type=int, default=224, help="pixels (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds after the first (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="(default: %(default)s)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="options as for the fedpurin command")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.networks, given.side, given.rounds, given.overrides)))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    rows = [in_a_process(network, given) for network in given.networks.split(",")]
    (given.out / "stress.md").write_text("\n".join(table(rows, given)) + "\n")
    print((given.out / "stress.md").read_text())


def in_a_process(network: str, given: argparse.Namespace) -> dict[str, Any]:
    """The row of one network; its memory is its own."""
    options = ["--one", "--networks", network, "--side", str(given.side), "--rounds", str(given.rounds)]
    command = [sys.executable, "-m", "benchmarks.stress", *options, *given.overrides]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    if done.returncode != 0:
        raise SystemExit(f"{network} ended with code {done.returncode}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def measure(network: str, side: int, rounds: int, overrides: list[str]) -> dict[str, Any]:
    """Rounds of one network: seconds of each stage, bytes, peaks."""
    import torch

    from benchmarks.common import machine, opened, seconds_of_round
    from benchmarks.round import Stages

    logging.disable(logging.WARNING)
    options = [*OPTIONS, f"model={network}", f"data.image_size={side}", f"trainer.rounds={rounds + 1}", *overrides]
    with opened(options) as federation:
        stages = Stages(federation)
        seconds_of_round(federation, 0)
        stages.seconds.clear()
        seconds = [seconds_of_round(federation, number) for number in range(1, rounds + 1)]
        config = federation.config
        device = federation.trainer.fabric.device
        return {
            "network": network,
            "parameters": federation.trainer.space.shared.size,
            "clients": config.partition.num_clients,
            "images": config.partition.train_per_client,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            "seconds": statistics.median(seconds),
            "stages": {name: value / rounds for name, value in stages.seconds.items()},
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "card": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
            "machine": machine(),
        }


def table(rows: list[dict[str, Any]], given: argparse.Namespace) -> list[str]:
    where = rows[0]["machine"]
    stages = list(dict.fromkeys(name for row in rows for name in row["stages"]))
    header = [
        "network",
        "parameters",
        "clients × images",
        "device",
        "s a round",
        *[f"of it {name}, s" for name in stages],
    ]
    header += ["peak memory, GiB", "of the card, GiB"]
    lines = [
        f"Images of {given.side} × {given.side} pixels, medians and means of {given.rounds} rounds after a first one; "
        f"{where['processor']}, {where['threads']} thread(s), torch {where['torch']}.",
        "",
        f"| {' | '.join(header)} |",
        f"|{' --- |' * len(header)}",
    ]
    for row in rows:
        cells = [row["network"], f"{row['parameters']:,}", f"{row['clients']} × {row['images']}", row["device"]]
        cells += [f"{row['seconds']:.2f}", *[f"{row['stages'].get(name, 0.0):.2f}" for name in stages]]
        cells += [f"{row['peak']:.1f}", "–" if row["card"] is None else f"{row['card']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
