"""`training_step` may return None, "not this batch", under every method: for some batches, and for all of a round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import TensorDataset

import fedpurin
from fedpurin.run.build import build
from fedpurin.run.compose import config_groups
from tests.methods.test_methods import Pull
from tests.methods.tiny import TEST, TRAIN, Tiny, composed

METHODS = config_groups()["method"]


class Skips(Tiny):
    """Takes every other batch of a client's first epoch, and none of later ones."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return None if batch_idx % 2 or self.current_epoch else super().training_step(batch, batch_idx)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_may_be_skipped(tmp_path: Path, method: str) -> None:
    config = composed(method)
    trainer = replace(config.trainer, executor="serial", local_epochs=1)
    federation = build(replace(config, trainer=trainer), tmp_path, module=Skips(), train=TRAIN, test=TEST, callbacks=())
    if method == "fedpac":  # its clients tell each other about features, and in the second round nobody has any
        with pytest.raises(fedpurin.ConfigError, match=r"method=FedPAC .* training_step returned None for all"):
            federation.run()
        return
    federation.run()
    assert [record["clients/diverged"] for record in federation.history] == [0, 0]
    for client in federation.clients.values():
        assert client.steps == 2, "batches 0 and 2 of three, in the first epoch"
        assert all(bool(torch.isfinite(tensor).all()) for tensor in (client.vector, *client.extra.values()))


class Half(Pull):
    """Takes no batch of x = 3."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return None if float(batch[0].mean()) > 2 else super().training_step(batch, batch_idx)


def run_half(run_dir: Path, module: LightningModule) -> fedpurin.Federation:
    y = torch.arange(2).repeat(20)
    data = TensorDataset(1.0 + 2.0 * y.float().unsqueeze(1), y)
    return fedpurin.simulate(
        [
            "method=scaffold", "partition=pathological", "partition.classes_per_client=1", "partition.num_clients=2",
            "trainer.batch_size=100", "trainer.accelerator=cpu", "trainer.threads=1", "trainer.local_epochs=1",
            "trainer.rounds=1", "trainer.executor=serial", "callbacks={}", "checkpoint.every=0",
        ],
        module=module, train=data, test=data, run_dir=run_dir,
    ).federation  # fmt: skip


def test_scaffold_without_a_step(tmp_path: Path) -> None:
    """From 0 one client goes to ½ (c_1 = −1), the other stays: the mean is ¼, and c = ½·(−1 + 0)."""
    federation = run_half(tmp_path, Half())
    assert [float(client.vector[0]) for client in federation.clients.values()] == pytest.approx([0.25, 0.25])
    controls = [float(c.extra["control"][0]) for c in federation.clients.values() if "control" in c.extra]
    assert controls == pytest.approx([-1.0]), "the control variate of who took no step does not change"
    assert float(federation.method.state_dict()["control"][0]) == pytest.approx(-0.5)
