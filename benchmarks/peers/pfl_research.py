"""FedAvg rounds of pfl-research (PyPI: pfl 0.6.0, Apple) beside ours, on the same clients, in one process.

    pip install pfl==0.6.0          # beside fedpurin; it is no dependency of ours
    python -m benchmarks.peers.pfl_research
    python -m benchmarks.peers.pfl_research --pairs 9 trainer.executor=serial

The workload is the digits case of `benchmarks/round.py`: 100 clients x 17 digits, small CNN, batch 8, one epoch. Their side
trains every client and averages; ours also evaluates each client's fitted and merged model and encodes what it sends. Each
pair times a few rounds of both, one after the other; the median of the ratios is what to quote.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.round import CASES, seconds_of
from fedpurin.run.build import build, make_module
from fedpurin.run.compose import compose_config


class Net(nn.Module):
    """The configured network with the two methods that pfl calls."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def loss(self, x: Tensor, y: Tensor, eval: bool = False) -> Tensor:
        self.train(not eval)
        return cross_entropy(self.backbone(x), y)

    def metrics(self, x: Tensor, y: Tensor, eval: bool = True) -> dict[str, Any]:
        return {"loss": Weighted(float(self.loss(x, y, eval=True).detach()) * len(y), len(y))}


class Clock(TrainingProcessCallback):
    """When each iteration ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Metrics]:
        self.ends.append(time.perf_counter())
        return False, Metrics()


def theirs(federation: Any, rounds: int) -> Callable[[], float]:
    """A function that runs so many rounds of theirs and returns their seconds."""
    trainer, config = federation.trainer, federation.config
    users = {}
    for client_id, client in federation.clients.items():
        x, y = next(iter(trainer.train.batches(client.train_indices, client.num_train)))
        users[client_id] = PyTorchTensorDataset((x.clone(), y.clone()), user_id=str(client_id))
    shape = {"num_classes": 10, "in_channels": 1, "image_size": 8}
    module: Any = make_module(config.model, shape)
    net = Net(module.backbone)
    ids = list(users)
    data = FederatedDataset(lambda client_id: users[client_id], get_user_sampler("minimize_reuse", ids))
    # Momentum as ours; pfl makes a client's optimizer anew with its own learning rate.
    model = PyTorchModel(
        net,
        local_optimizer_create=lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
        central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
    )
    backend = SimulatedBackend(training_data=data, val_data=data)
    train = NNTrainHyperParams(
        local_batch_size=config.trainer.batch_size,
        local_num_epochs=config.trainer.local_epochs,
        local_learning_rate=module.lr,
    )
    # Their first iteration evaluates as well, whatever is asked for: it is run and not counted.
    params = NNAlgorithmParams(
        central_num_iterations=rounds + 1, evaluation_frequency=10**9, train_cohort_size=len(ids), val_cohort_size=1
    )

    def run() -> float:
        clock = Clock()
        FederatedAveraging().run(params, backend, model, train, callbacks=[clock], send_metrics_to_platform=False)
        return clock.ends[-1] - clock.ends[0]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of a measurement (default: %(default)s)")
    parser.add_argument("--method", default="fedavg", help="ours (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", help="options as for the fedpurin command")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    silent = ["~callbacks.progress", "~callbacks.mask_statistics", "checkpoint.every=0", "trainer.rounds=1000"]
    config, _ = compose_config([*CASES["digits"], f"method={arguments.method}", *silent, *arguments.overrides])
    with tempfile.TemporaryDirectory() as folder:
        federation = build(config, Path(folder) / "run")
        federation._call("on_run_start")
        peer, number = theirs(federation, arguments.rounds), 0

        def ours() -> None:
            nonlocal number
            for _ in range(arguments.rounds):
                federation.run_round(number)
                number += 1

        ours(), peer()  # warm-up
        pairs = [(seconds_of(ours), peer()) for _ in range(arguments.pairs)]
    ratios = [a / b for a, b in pairs]
    print(
        f"{arguments.method}, {type(federation.executor).__name__}: {statistics.median(ratios):.2f} x pfl-research "
        f"({min(ratios):.2f} to {max(ratios):.2f}); a round: ours "
        f"{statistics.median(a for a, _ in pairs) / arguments.rounds:.3f} s, theirs "
        f"{statistics.median(b for _, b in pairs) / arguments.rounds:.3f} s"
    )


if __name__ == "__main__":
    main()
