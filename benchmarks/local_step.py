"""What a local step costs in fedpurin against the bare PyTorch loop: same model, same batches, same process.

Fits of one client alternate with the bare loop over the same number of steps, and each pair gives a ratio, so that a
machine whose speed drifts does not matter. `fit` includes what fedpurin adds to training: loading the client, batches
by index, the last gradient, the divergence check, storing the result. Mask selection is left out (benchmarks/selection.py).

    python benchmarks/local_step.py                                  ResNet-8 on Fashion-MNIST, batch 100
    python benchmarks/local_step.py --pairs 15 data=digits model=cnn
    python benchmarks/local_step.py --optimizers                     torch's plain, foreach and fused SGD as shares of a step
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedpurin.local.fit import LocalFit
from fedpurin.run.build import build, make_module
from fedpurin.run.compose import compose_config

DEFAULT = ["experiment=paper_fashion_mnist"]


def bare_loop(model: nn.Module, x: Tensor, y: Tensor, batch_size: int, epochs: int) -> None:
    """The loop that anyone would write."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(x)).to(x.device).split(batch_size):
            optimizer.zero_grad()
            cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()


def compare_optimizers(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """What an SGD step costs beside a batch's forward and backward pass, by this process's CPU time; the least of ten."""

    def least(work: Callable[[], object]) -> float:
        taken = []
        for _ in range(10):
            start = time.process_time()
            work()
            taken.append(time.process_time() - start)
        return min(taken)

    model.train()
    passes = least(lambda: cross_entropy(model(x), y).backward())
    options: dict[str, dict[str, bool]] = {"plain": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    for name, chosen in options.items():
        step = least(torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, **chosen).step)  # type: ignore[arg-type]
        print(f"{name} SGD: {step / (passes + step):.2%} of a step")


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7, help="pairs of measurements after one warm-up (default 7)")
    parser.add_argument("--epochs", type=int, default=1, help="epochs a measurement (default 1)")
    parser.add_argument("--optimizers", action="store_true", help="compare optimizers instead")
    parser.add_argument("overrides", nargs="*", default=DEFAULT, help="options as for the fedpurin command")
    arguments = parser.parse_args()

    silent = ["~callbacks", "partition.num_clients=1", "method=local"]
    config, _ = compose_config([*(arguments.overrides or DEFAULT), *silent])
    with tempfile.TemporaryDirectory() as folder:
        federation = build(config, Path(folder))
        trainer, client = federation.trainer, federation.clients[0]
        batches = trainer.train.batches(client.train_indices, client.num_train)
        x, y = (part.clone() for part in next(iter(batches)))
        trainer.load(client)
        twin = make_module(config.model, {"num_classes": 10, "in_channels": x.shape[1], "image_size": x.shape[2]})
        twin.to(x.device)

        if arguments.optimizers:
            size = config.trainer.batch_size
            return compare_optimizers(twin, x[:size], y[:size])

        def ours() -> None:
            trainer.fit(client, LocalFit(epochs=arguments.epochs), 0)

        def theirs() -> None:
            bare_loop(twin, x, y, config.trainer.batch_size, arguments.epochs)

        ours(), theirs()  # warm-up
        pairs = [(seconds_of(ours), seconds_of(theirs)) for _ in range(arguments.pairs)]
    steps = arguments.epochs * -(-client.num_train // config.trainer.batch_size)
    ratios = [a / b for a, b in pairs]
    print(
        f"{config.model['backbone']['_target_']}, batch {config.trainer.batch_size}, {torch.get_num_threads()} threads"
    )
    print(f"a step: fedpurin {1e3 * statistics.median(a for a, _ in pairs) / steps:.2f} ms, "
          f"bare {1e3 * statistics.median(b for _, b in pairs) / steps:.2f} ms")  # fmt: skip
    print(
        f"ratio: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}, {len(pairs)} pairs"
    )


if __name__ == "__main__":
    main()
