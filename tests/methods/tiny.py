"""A tiny federation that runs in a second: four clients of unequal sizes, a network with norms, and its data."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import fedpurin
from fedpurin.config import Config
from fedpurin.run.build import make_method
from fedpurin.run.compose import compose_config

ROUNDS, CLIENTS, EPOCHS, BATCH = 2, 4, 2, 8


class Tiny(LightningModule):
    """Linear, batch norm, linear: a body with running statistics and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Plain(Tiny):
    """The same without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.net[1] = nn.Identity()


def make_data(num: int, seed: int) -> TensorDataset:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 6, generator=g)
    return TensorDataset(x, (x[:, :3].sum(1) + x[:, 3]).clamp(-1.4, 1.4).round().long() + 1)


TRAIN, TEST = make_data(90, 1), make_data(40, 2)


OVERRIDES = [
    "partition=dirichlet", f"partition.num_clients={CLIENTS}", "partition.alpha=1.0",
    f"trainer.rounds={ROUNDS}", f"trainer.local_epochs={EPOCHS}", f"trainer.batch_size={BATCH}",
    "trainer.accelerator=cpu", "trainer.threads=1", "callbacks.progress=null", "checkpoint.every=0",
]  # fmt: skip


@cache
def composed(method: str) -> Config:
    """Composing costs as much as a run; methods without masks do not need the programs that sparsity studies solve."""
    config = compose_config([*OVERRIDES, "partition=iid", f"method={method}"])[0]
    return config if make_method(config.method).needs_masks else replace(config, callbacks={})


def simulate(
    run_dir: Path, *overrides: str, module: LightningModule | None = None, **arguments: Any
) -> fedpurin.RunResult:
    """Run the tiny federation; `overrides` come last and win."""
    module = module or Tiny()
    return fedpurin.simulate(
        [*OVERRIDES, *overrides], module=module, train=TRAIN, test=TEST, run_dir=run_dir, **arguments
    )
