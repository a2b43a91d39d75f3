"""Compressing methods on numbers worked out by hand: three parameters that go half the way to the client's target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import fedpurin

TARGETS = torch.tensor([[4.0, 1.0, -2.0], [8.0, -16.0, 1.0]])


class Pull3(LightningModule):
    """½‖w − x‖² with a learning rate of ½, from w = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return 0.5 * (self.w - batch[0]).square().sum(1).mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("accuracy", self.w.detach().sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def run3(run_dir: Path, module: LightningModule, *overrides: str) -> fedpurin.RunResult:
    """Two clients with a target each, one step an epoch."""
    y = torch.arange(2).repeat(20)
    data = TensorDataset(TARGETS[y], y)
    return fedpurin.simulate(
        [
            "partition=pathological", "partition.classes_per_client=1", "partition.num_clients=2",
            "trainer.batch_size=100", "trainer.accelerator=cpu", "trainer.threads=1", "trainer.local_epochs=1",
            "callbacks.progress=null", "callbacks.mask_selection=null", "checkpoint.every=0", *overrides,
        ],
        module=module, train=data, test=data, run_dir=run_dir,
    )  # fmt: skip


def pull3(run_dir: Path, *overrides: str) -> tuple[list[float], list[dict[str, Any]]]:
    """The common model at the end of one step a round, and the records."""
    result = run3(run_dir, Pull3(), *overrides)
    one, two = (client.vector[:3].tolist() for client in result.federation.clients.values())
    assert one == two or "trainer.clients_per_round=1" in overrides, "all hold the same model"
    return one, result.history


def test_topk_keeps_what_it_did_not_send(tmp_path: Path) -> None:
    """Updates (2, ½, −1) and (4, −8, ½); largest 2 and −8, mean (1, −4, 0). Then, with errors (0, ½, −1) and (4, 0, ½):
    (1½, 2½, −1) + (0, ½, −1) sends 3; (3½, −6, ½) + (4, 0, ½) sends 7½."""
    model, history = pull3(tmp_path / "1", "method=topk", "method.density=0.34", "trainer.rounds=1")
    assert model == [1.0, -4.0, 0.0]
    assert history[0]["update/density"] == pytest.approx(1 / 3)
    # 40 of header, 4 of table, a value of 4 and an index of 1 byte; down: the same with two values.
    assert (history[0]["bytes/up"], history[0]["bytes/down"]) == (2 * 49, 2 * 53)
    model, _ = pull3(tmp_path / "2", "method=topk", "method.density=0.34", "trainer.rounds=2")
    assert model == [1.0 + 3.75, -4.0 + 1.5, 0.0]


def test_topk_in_16_bits(tmp_path: Path) -> None:
    """All of these values are exact in 16 bits, so the model is the same, for two bytes less a value."""
    options = ["method=topk", "method.density=0.34", "trainer.rounds=1", "exchange.value_dtype=float16"]
    model, history = pull3(tmp_path, *options)
    assert model == [1.0, -4.0, 0.0]
    assert (history[0]["bytes/up"], history[0]["bytes/down"]) == (2 * 47, 2 * 49)


def test_topk_in_8_bits(tmp_path: Path) -> None:
    """The same with three bytes less a value: 2½ and 6 have three bits of fraction or fewer, and so have their means."""
    options = ["method=topk", "method.density=0.34", "trainer.rounds=1", "exchange.value_dtype=float8_e4m3fn"]
    model, history = pull3(tmp_path, *options)
    assert model == [1.0, -4.0, 0.0]
    assert (history[0]["bytes/up"], history[0]["bytes/down"]) == (2 * 46, 2 * 47)


@pytest.mark.parametrize(("bits", "value_bytes"), [(8, 2), (4, 1)])
def test_topk_quantised_feeds_both_losses_back(tmp_path: Path, bits: int, value_bytes: int) -> None:
    """(2, ½, −1) sends 2 and −1 at scale 2, (4, −8, ½) sends 4 and −8 at scale 8; what is lost is within a level."""
    result = run3(tmp_path, Pull3(), "method=topk", "method.density=0.67", f"method.bits={bits}", "trainer.rounds=1")
    # 40 of header, 4 of table, 4 of scale, a bitmap of one byte
    assert result.history[0]["bytes/up"] == 2 * (49 + value_bytes)
    received = []
    for client in result.federation.clients.values():
        has_first = int(client.class_counts.argmax()) == 0
        update, unsent, scale = ([2.0, 0.5, -1.0], 1, 2.0) if has_first else ([4.0, -8.0, 0.5], 2, 8.0)
        error = client.extra["error"][:3]
        assert float(error[unsent]) == 0.5, "what is not sent waits whole"
        received.append(torch.tensor(update) - error)
        steps = received[-1] * (2 ** (bits - 1) - 1) / scale
        assert torch.allclose(steps, steps.round(), atol=1e-4), "only levels arrive"
        lost = torch.cat([error[:unsent], error[unsent + 1 :]])
        assert float(lost.abs().max()) <= scale / (2 ** (bits - 1) - 1)
    assert torch.allclose(client.vector[:3], (received[0] + received[1]) / 2)


def test_stc_sends_one_magnitude_both_ways(tmp_path: Path) -> None:
    """Two of three: (2, ½, −1) gives ±1½, (4, −8, ½) gives ±6; mean (3¾, −3, −¾), of which ±3⅜ goes down."""
    model, history = pull3(tmp_path, "method=stc", "method.density=0.67", "trainer.rounds=1")
    assert model == [3.375, -3.375, 0.0]
    # Header, table, magnitude, a byte of signs; two positions are a bitmap of one byte.
    assert (history[0]["bytes/up"], history[0]["bytes/down"]) == (2 * 50, 2 * 50)


@pytest.mark.parametrize(("bits", "value_bytes"), [(8, 3), (4, 2), (2, 1), (1, 1)])
def test_fedpaq_counts_its_bits(tmp_path: Path, bits: int, value_bytes: int) -> None:
    """Up: header, table, norm and codes; down: header, table and three float32."""
    model, history = pull3(tmp_path, "method=fedpaq", f"method.bits={bits}", "trainer.rounds=1")
    assert (history[0]["bytes/up"], history[0]["bytes/down"]) == (2 * (48 + value_bytes), 2 * 56)
    if bits == 8:  # within a level, 2/127 and 8/127, of the mean (3, −3¾, −¼)
        assert model == pytest.approx([3.0, -3.75, -0.25], abs=5 / 127)
    if bits == 1:  # ±2 and ±8, averaged
        assert {abs(value) for value in model} <= {3.0, 5.0}


def test_who_was_not_drawn_gets_the_model_dense(tmp_path: Path) -> None:
    overrides = ["method=topk", "method.density=0.34", "trainer.rounds=3", "trainer.clients_per_round=1"]
    _, history = pull3(tmp_path, *overrides)
    assert [record["bytes/down"] for record in history] == [56, 56, 56]
    assert [record["bytes/up"] for record in history] == [49, 49, 49]
