"""How often a finished run of several ranks does not leave cleanly: `python -m tests.clean_ends --runs 100`.

Every run is complete in itself: ranks with the variables that srun gives them, a process group, rounds, checkpoints, and the
end of an interpreter, where a thread of gloo's or of a store's that outlives its objects would abort the process. Only
the start differs: ranks are forked from a process that has imported everything, so that a hundred runs take minutes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from fedpurin.config import Config
from fedpurin.run.compose import compose_config
from fedpurin.run.start import run
from tests.slurm.gate import free_ports

SMALL = [
    "method=fedavg", "partition.num_clients=4", "partition.train_per_client=20", "trainer.local_epochs=1", "trainer.threads=1",
    "trainer.accelerator=cpu", "trainer.rounds=2", "checkpoint.every=1",
    "~callbacks.progress", "~callbacks.mask_statistics", "~callbacks.mask_selection",
]  # fmt: skip
IMPORTS = (
    "callbacks", "fedpurin.exchange.rendezvous", "fedpurin.run.build", "hydra._internal.utils", "lightning_modules",
    "sklearn.datasets",
)  # fmt: skip
"""What a rank would import during its run, once for all of them."""
HANGS_SECONDS = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--nodes", type=int, default=1, help="nodes that the ranks believe to be on (default 1)")
    parser.add_argument("--ranks", type=int, default=4, help="ranks in all (default 4)")
    given = parser.parse_args()
    start, unclean = time.monotonic(), 0
    for module in IMPORTS:
        importlib.import_module(module)
    config, _ = compose_config(SMALL)
    folder = Path(tempfile.mkdtemp())
    for number in range(given.runs):
        ends = run_once(config, folder / str(number), given.ranks, given.nodes)
        if ends is None:
            return  # a rank: its interpreter ends now, as every rank's does
        if any(ends):
            unclean += 1
            log = (folder / f"{number}.log").read_text()
            print(f"run {number}: ranks ended with {ends}\n{log}", flush=True)
        shutil.rmtree(folder / str(number), ignore_errors=True)
    shutil.rmtree(folder)
    print(
        f"{given.runs} runs of {given.ranks} ranks on {given.nodes} node(s): {unclean} not clean, "
        f"{time.monotonic() - start:.0f} s"
    )
    sys.exit(1 if unclean else 0)


def run_once(config: Config, run_dir: Path, ranks: int, nodes: int) -> list[int] | None:
    """Exit codes of the ranks; None inside a rank that has done its part."""
    (port,) = free_ports(1)
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            be_rank(config, rank, ranks, nodes, port, run_dir)
            return None
        children.append(child)
    deadline, codes = time.monotonic() + HANGS_SECONDS, dict[int, int]()
    while len(codes) < ranks:
        for child in set(children) - codes.keys():
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[child] for child in children]


def be_rank(config: Config, rank: int, ranks: int, nodes: int, port: int, run_dir: Path) -> None:
    """One rank's whole run, in a process that looks as if srun had started it."""
    log = os.open(f"{run_dir}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    local = ranks // nodes
    step = {
        "STEP_ID": "0",
        "JOB_ID": "1",
        "NTASKS": ranks,
        "STEP_NUM_TASKS": ranks,
        "NNODES": nodes,
        "STEP_NUM_NODES": nodes,
    }
    task = {"PROCID": rank, "LOCALID": rank % local, "NODEID": rank // local, "NTASKS_PER_NODE": local}
    os.environ |= {f"SLURM_{name}": str(value) for name, value in (step | task).items()}
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "SLURM_JOB_NAME": "ends",
        "OMP_NUM_THREADS": "1",
    }
    run(config, run_dir)


if __name__ == "__main__":
    main()
