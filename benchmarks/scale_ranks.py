"""A round against the number of processes, and what a simple model of it says of more than this machine has.

    python -m benchmarks.scale_ranks [--case digits] [--method fedavg] [--rounds 6]

Runs the command with `trainer.devices` of 1, 2 and 4, interleaved, and takes each round's seconds from metrics.jsonl. The
model: what clients do (fits, evaluation, programs) is divided by the processes that have a core of their own; the rest
of a round (exchange, record), measured on one process, stays. It leaves out the network between nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import opened, write
from benchmarks.round import CASES, Stages

RANKS = (1, 2, 4)
PREDICTED = (8, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=sorted(CASES), default="digits")
    parser.add_argument("--method", default="fedavg")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    base = [
        *CASES[arguments.case],
        f"method={arguments.method}",
        f"trainer.rounds={arguments.rounds}",
        "trainer.threads=1",
    ]
    seconds: dict[int, list[float]] = {ranks: [] for ranks in RANKS}
    for _ in range(arguments.repeats):
        for ranks in RANKS:
            seconds[ranks].append(_measure(base, ranks))
    measured = {ranks: statistics.median(values) for ranks, values in seconds.items()}
    alone = _share_of_clients(base, arguments.rounds)
    cores = os.cpu_count() or 1
    rows = []
    for ranks in (*RANKS, *PREDICTED):
        apart = min(ranks, cores) if ranks in RANKS else ranks
        rows.append(
            {
                "processes": ranks,
                "measured": measured[ranks] / measured[1] if ranks in measured else None,
                "model": alone / apart + 1 - alone,
                "processes with a core": apart,
            }
        )
    title = f"A round of {arguments.method} ({arguments.case}) over that of one process"
    chosen = f"--case {arguments.case} --method {arguments.method} --rounds {arguments.rounds}"
    chosen += f" --repeats {arguments.repeats}"
    name = f"scale_ranks_{arguments.case}_{arguments.method}"
    write(name, title, f"python -m benchmarks.scale_ranks {chosen}", rows, lines=["measured", "model"], y="ratio")


def _measure(base: list[str], ranks: int) -> float:
    """Median seconds of a round, without the first, which compiles."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fedpurin", *base, f"trainer.devices={ranks}", f"hydra.run.dir={folder}/run"]
        subprocess.run([*command, "checkpoint.every=0"], check=True, capture_output=True)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["round/seconds"] for line in lines[1:])


def _share_of_clients(base: list[str], rounds: int) -> float:
    """The share of one process's round in which clients train, are evaluated and have their programs solved."""
    with opened(base) as federation:
        federation.run_round(0)
        stages = Stages(federation)
        start = sum(record["round/seconds"] for record in federation.history)
        for number in range(1, rounds):
            federation.run_round(number)
        total = sum(record["round/seconds"] for record in federation.history) - start
    return sum(stages.seconds[name] for name in ("local fits, with scores", "evaluation", "programs")) / total


if __name__ == "__main__":
    main()
