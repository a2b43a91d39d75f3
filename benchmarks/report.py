"""How long the report takes and how much memory and page it needs: 100 runs × 200 rounds × 20 clients.

    python -m benchmarks.report [--runs 100] [--rounds 200] [--clients 20]

Makes synthetic run folders (six methods, FedPURIN over τ and β, three seeds) in a temporary folder, runs the report on
them in a process of its own, and prints its seconds (by the clock and the processor's), peak resident memory, the size of
the page and what of it is plotly.js (gzipped, in base64), with plotly.js' own size.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice, product
from pathlib import Path
from typing import Any

from fedpurin.report.page import library, packed
from tests.report.synthetic import Spec, write_run

LIMITS = {"cpu_seconds": 30.0, "memory_mib": 1024.0, "page_mib": 8.0}
SEEDS = (1, 2, 3)
RIVALS = ("local", "fedavg", "fedper", "fedcac", "ditto", "fedpurin")
TAUS = (0.1, 0.3, 0.5, 0.7, 0.9)


def sweep() -> Iterator[tuple[str, dict[str, Any], int]]:
    """Methods with their seeds, then FedPURIN over τ and β without end."""
    yield from ((method, {}, seed) for method, seed in product(RIVALS, SEEDS))
    for beta, tau, seed in ((b, t, s) for b in count(50, 25) for t in TAUS for s in SEEDS):
        yield "fedpurin_recommended", {"program.tau": tau, "method.beta": beta}, seed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 100), ("rounds", 200), ("clients", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for index, (method, options, seed) in enumerate(islice(sweep(), arguments.runs)):
            spec = Spec(method, seed, arguments.rounds, arguments.clients, classes=10, options=options)
            write_run(root / "sweep" / str(index), spec)
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "fedpurin", "report", str(root / "sweep"), "--out", str(root / "out")], check=True
        )
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        figures = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "memory_mib": usage.ru_maxrss / 1024,
            "page_mib": (root / "out" / "report.html").stat().st_size / 2**20,
            "plotly_in_page_mib": len(packed(library())) / 2**20,
            "plotly_mib": len(library().encode()) / 2**20,
        }
    for name, value in figures.items():
        print(f"{name:<18} {value:8.1f}" + (f"   limit {LIMITS[name]:g}" if name in LIMITS else ""))
    return int(any(figures[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
