"""Peak memory of whole runs: clients of 1.2 million parameters (ResNet-8), a tenth of them a round, by `clients.store`.

    python -m benchmarks.memory [--clients 10,100,1000] [--rounds 2]

The peak is the process's largest resident set (`getrusage`), interpreter, libraries and data included, which the first
row of 10 clients shows nearly alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

from benchmarks.common import write

OPTIONS = (
    "method=fedpurin", "data=fashion_mnist", "model=resnet8", "partition.train_per_client=10", "partition.test_per_client=5",
    "partition.disjoint=false", "trainer.batch_size=10", "trainer.local_epochs=1", "trainer.accelerator=cpu",
    "trainer.threads=1", "checkpoint.every=0",
)  # fmt: skip
PARAMETERS = 1_227_594


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="10,100,1000", help="numbers of clients (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    rows = []
    for count in map(int, arguments.clients.split(",")):
        peaks = {store: _peak_gib(count, arguments.rounds, store) for store in ("device", "disk")}
        rows.append({"clients": count, "models GiB": count * 4 * PARAMETERS / 2**30} | peaks)
    command = f"python -m benchmarks.memory --clients {arguments.clients} --rounds {arguments.rounds}"
    write(
        "memory", "Peak memory in GiB, by clients.store", command, rows, lines=["models GiB", "device", "disk"], y="GiB"
    )


def _peak_gib(count: int, rounds: int, store: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.Popen(
            [
                sys.executable, "-m", "fedpurin", *OPTIONS, f"partition.num_clients={count}", f"trainer.rounds={rounds}",
                f"trainer.clients_per_round={max(1, count // 10)}", f"clients.store={store}", f"hydra.run.dir={folder}/run",
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode != 0:
        raise SystemExit(f"the run of {count} clients ended with code {run.returncode}")
    return usage.ru_maxrss / 2**20


if __name__ == "__main__":
    main()
