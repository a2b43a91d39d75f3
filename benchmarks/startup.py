"""From the command to the first round's start, over importing torch and lightning; interleaved pairs of processes.

    python -m benchmarks.startup [--pairs 7] [option=value ...]

Kernels are compiled before the first pair. The first number is wall-clock time, the second the processor's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

UNTIL_FIRST_ROUND = """
import os, sys
from fedpurin.federation import Federation
Federation.run_round = lambda self, number: (sys.stdout.flush(), os._exit(0))
from fedpurin.__main__ import main
sys.exit(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("overrides", nargs="*", help="options as for the fedpurin command")
    arguments = parser.parse_args()
    _first_round(arguments.overrides)
    pairs = [(_first_round(arguments.overrides), _seconds("import torch, lightning")) for _ in range(arguments.pairs)]
    for name, number in (("wall clock", 0), ("processor", 1)):
        ratios = [ours[number] / theirs[number] for ours, theirs in pairs]
        print(
            f"{name}: {statistics.median(ratios):.2f} x importing torch and lightning "
            f"({min(ratios):.2f} to {max(ratios):.2f}); {statistics.median(ours[number] for ours, _ in pairs):.1f} s"
        )


def _first_round(overrides: list[str]) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        return _seconds(UNTIL_FIRST_ROUND, *overrides, f"hydra.run.dir={folder}/run")


def _seconds(code: str, *arguments: str) -> tuple[float, float]:
    """Wall-clock and processor seconds of a Python process."""
    start = time.perf_counter()
    run = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode != 0:
        raise SystemExit(f"a process ended with code {run.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
