"""Whole rounds by stage, against the bare PyTorch loop that anyone would write, interleaved in one process.

    python benchmarks/round.py                                       # 100 clients x 17 digits, small CNN, batch 8
    python benchmarks/round.py --case resnet8 --rounds 3             # 20 x 500 Fashion-MNIST, ResNet-8, 5 epochs
    python benchmarks/round.py --method fedpurin --beside fedavg     # instead of the bare loop, another method of ours
    torchrun --nproc-per-node 2 benchmarks/round.py                  # two processes each, one thread a process

The bare loop trains every client from the mean and averages; it evaluates nothing. A round of ours does the same and
evaluates every client's fitted and merged model, encodes what it sends and records the round. The ratio of the two is
taken pair by pair; its median is what to quote. Stages are shares of our round.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedpurin.federation import Federation
from fedpurin.run.build import build, make_module
from fedpurin.run.compose import compose_config

CASES = {
    "digits": [
        "partition.num_clients=100", "partition.train_per_client=17", "partition.disjoint=false",
        "trainer.batch_size=8", "trainer.local_epochs=1",
    ],
    "resnet8": ["experiment=paper_fashion_mnist"],
}  # fmt: skip
METHODS = ("local", "fedavg", "fedpurin")


class BareLoop:
    """FedAvg over this rank's clients: a model, an optimizer a client and round, a mean over all ranks."""

    def __init__(self, federation: Federation) -> None:
        trainer, config = federation.trainer, federation.config
        self.batch_size, self.epochs = config.trainer.batch_size, config.trainer.local_epochs
        self.data = [self._all(trainer.train, client.train_indices) for client in federation.clients.values()]
        x = self.data[0][0]
        shape = {"num_classes": 10, "in_channels": x.shape[1], "image_size": x.shape[2]}
        self.net: Any = make_module(config.model, shape)
        self.num_clients = config.partition.num_clients
        self.mean = [p.detach().clone() for p in self.net.parameters()]

    @staticmethod
    def _all(pool: Any, indices: Tensor) -> tuple[Tensor, Tensor]:
        x, y = next(iter(pool.batches(indices, len(indices))))
        return x.clone(), y.clone()

    def run_round(self) -> None:
        total = [torch.zeros_like(p) for p in self.mean]
        for x, y in self.data:
            self._train(self.net, x, y)
            for sum_, parameter in zip(total, self.net.parameters(), strict=True):
                sum_ += parameter.detach()
        for sum_ in total:
            if dist.is_initialized():
                dist.all_reduce(sum_)
            sum_ /= self.num_clients
        self.mean = total

    def _train(self, net: nn.Module, x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            for parameter, value in zip(net.parameters(), self.mean, strict=True):
                parameter.copy_(value)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9)
        net.train()
        for _ in range(self.epochs):
            for index in torch.randperm(len(x)).split(self.batch_size):
                optimizer.zero_grad()
                cross_entropy(net(x[index]), y[index]).backward()
                optimizer.step()


class Stages:
    """Seconds by stage, from timers around the calls of the loop."""

    def __init__(self, federation: Federation) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._wrap(federation.executor, "fit", "local fits, with scores")
        self._wrap(federation.executor, "evaluate", "evaluation")
        self._wrap(federation.method, "communicate", "exchange, aggregation, merge")
        self._wrap(federation, "_record", "recording")
        if federation.masks is not None:  # for large models the time lies within the fits too
            self._wrap(federation.masks, "_solve_waiting", "programs")

    def _wrap(self, owner: Any, name: str, stage: str) -> None:
        call: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(call)  # Fabric reads the signature
        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments, **keywords)
            finally:
                self.seconds[stage] += time.perf_counter() - start

        object.__setattr__(owner, name, timed)


@contextmanager
def run_folder() -> Iterator[Path]:
    """A folder that goes afterwards; torchrun's ranks of one machine share it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    folder = Path(tempfile.gettempdir()) / f"fedpurin-round-{os.getppid()}"
    yield folder
    if dist.get_rank() == 0:
        shutil.rmtree(folder)


def seconds_of(work: Callable[[], object]) -> float:
    if dist.is_initialized():
        dist.barrier()
    start = time.perf_counter()
    work()
    if dist.is_initialized():
        dist.barrier()
    return time.perf_counter() - start


def rounds_of(federation: Federation) -> Callable[[], None]:
    """Runs its next round at every call."""
    federation._call("on_run_start")
    numbers = count()
    return lambda: federation.run_round(next(numbers))


def measure(case: str, method: str, rounds: int, overrides: list[str], beside: str | None = None) -> dict[str, Any]:
    """Ratios of our rounds to bare ones, or to those of the method `beside`, and our stages."""
    silent = ["~callbacks.progress", "~callbacks.mask_statistics", "checkpoint.every=0", f"trainer.rounds={rounds + 1}"]
    world = int(dist.get_world_size()) if dist.is_initialized() else 1
    config, _ = compose_config([*CASES[case], f"method={method}", *silent, *overrides])
    other, _ = compose_config([*CASES[case], f"method={beside or method}", *silent, *overrides])
    with run_folder() as folder:
        federation = build(config, folder / method)
        world = federation.processes.size
        stages = Stages(federation)
        federation._call("on_run_start")
        federation.run_round(0)
        yardstick = rounds_of(build(other, folder / "beside")) if beside else BareLoop(federation).run_round
        yardstick()
        stages.seconds.clear()
        gc.freeze()  # as Federation.run does
        pairs = [
            (seconds_of(lambda number=number: federation.run_round(number)), seconds_of(yardstick))  # type: ignore[misc]
            for number in range(1, rounds + 1)
        ]
        ours = sum(a for a, _ in pairs)
        shares = {name: value / ours for name, value in stages.seconds.items()}
        gc.unfreeze()
        federation.processes.gather_objects(None)
    ratios = [a / b for a, b in pairs]
    return {
        "case": case, "method": method, "beside": beside or "the bare loop",
        "processes": world, "executor": type(federation.executor).__name__,
        "cohort": federation.executor.block, "rounds": rounds,
        "ratio/median": statistics.median(ratios), "ratio/min": min(ratios), "ratio/max": max(ratios),
        "round/seconds": statistics.median(a for a, _ in pairs), "beside/seconds": statistics.median(b for _, b in pairs),
        "stages": shares | {"other": 1 - sum(shares.values())},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=sorted(CASES), default="digits")
    parser.add_argument("--method", choices=METHODS, action="append", help="(default: all three)")
    parser.add_argument("--beside", choices=METHODS, help="take the rounds of this method for the bare loop's")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of rounds after a warm-up (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="append a JSON line for each method")
    parser.add_argument("overrides", nargs="*", help="options as for the fedpurin command")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    for method in arguments.method or METHODS:
        result = measure(arguments.case, method, arguments.rounds, arguments.overrides, arguments.beside)
        if dist.is_initialized() and dist.get_rank() != 0:
            continue
        print(
            f"{result['case']} {method}, {result['processes']} processes, {result['executor']} of {result['cohort']}: "
            f"{result['ratio/median']:.2f} x {result['beside']} ({result['ratio/min']:.2f} to {result['ratio/max']:.2f}); "
            + ", ".join(f"{name} {share:.0%}" for name, share in result["stages"].items()),
            flush=True,
        )
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
