"""`trainer.channels_last`: the same learning in another memory layout, and where it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fedpurin
from fedpurin.config import ConfigError
from fedpurin.local.executor import SerialExecutor

RUN = [
    "partition.num_clients=2", "trainer.rounds=1", "trainer.local_epochs=1", "trainer.accelerator=cpu",
    "checkpoint.every=0", "method=fedavg",
]  # fmt: skip


def simulate(folder: Path, *overrides: str) -> fedpurin.RunResult:
    return fedpurin.simulate([*RUN, *overrides], run_dir=folder)


def test_it_learns_what_the_usual_layout_learns(tmp_path: Path) -> None:
    usual = simulate(tmp_path / "usual", "trainer.executor=serial")
    laid = simulate(tmp_path / "laid", "trainer.channels_last=true")
    assert type(laid.federation.executor) is SerialExecutor  # auto: cohorts stack their batches anew
    for client_id, client in usual.federation.clients.items():
        torch.testing.assert_close(client.vector, laid.federation.clients[client_id].vector, rtol=1e-3, atol=1e-4)
    seen = []
    trainer = laid.federation.trainer
    convolution = next(part for part in trainer.module.modules() if isinstance(part, nn.Conv2d))
    convolution.register_forward_hook(lambda _, __, y: seen.append(y.is_contiguous(memory_format=torch.channels_last)))
    trainer.load(laid.federation.clients[0])
    trainer.evaluate()
    assert seen
    assert all(seen)


def test_a_cohort_or_samples_that_are_no_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"executor=cohort is not possible: trainer.channels_last=true"):
        simulate(tmp_path / "cohort", "trainer.channels_last=true", "trainer.executor=cohort")
    np.savez(tmp_path / "rows.npz", x=np.zeros((60, 8), dtype=np.float32), y=np.arange(60) % 3)
    rows = ["data=arrays", f"data.root={tmp_path}/rows.npz", "model=mlp", "partition=iid"]
    with pytest.raises(ConfigError, match=r"channels_last=true needs images \[C, H, W\] with one target; .* \[8\]"):
        simulate(tmp_path / "flat", "trainer.channels_last=true", *rows)
