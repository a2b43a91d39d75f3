"""Frozen parts are constants to every method: a model with one learns, bit for bit, what it learns without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fedpurin.federation import Federation
from fedpurin.methods import Method
from fedpurin.run.build import build, make_method
from fedpurin.run.compose import config_groups
from tests.methods.tiny import TEST, TRAIN, Tiny, composed

METHODS = config_groups()["method"]


class Frozen(Tiny):
    """A first layer whose parameters are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 6).requires_grad_(False), *self.net)


class Fixed(nn.Module):
    """A linear layer without parameters."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.both = weight.detach(), bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, *self.both)


class Constant(Frozen):
    """The same layer as constants."""

    def __init__(self) -> None:
        super().__init__()
        self.net[0] = Fixed(self.net[0].weight, self.net[0].bias)


def mixes_in(method: str) -> bool:
    """Whether the method gives its clients another loss."""
    return type(make_method(composed(method).method)).adapt is not Method.adapt


def run(run_dir: Path, method: str, executor: str, module: lightning.LightningModule) -> Federation:
    config = composed(method)
    trainer = replace(config.trainer, executor=executor, cohort=2 if executor == "cohort" else "auto", local_epochs=1)
    federation = build(replace(config, trainer=trainer), run_dir, module=module, train=TRAIN, test=TEST, callbacks=())
    federation.run()
    return federation


@pytest.mark.parametrize(
    ("method", "executor"), [*((m, "serial") for m in METHODS), *((m, "cohort") for m in METHODS if mixes_in(m))]
)
def test_a_frozen_layer_is_a_constant(tmp_path: Path, method: str, executor: str) -> None:
    frozen, constant = (run(tmp_path / m.__name__, method, executor, m()) for m in (Frozen, Constant))
    assert [segment.name for segment in frozen.trainer.space.layout] == [
        segment.name for segment in constant.trainer.space.layout
    ]
    for client_id, client in frozen.clients.items():
        other = constant.clients[client_id]
        assert torch.equal(client.vector, other.vector)
        assert client.metrics == other.metrics
        for name, value in client.extra.items():
            assert torch.equal(value, other.extra[name]), name
    assert torch.equal(frozen.trainer.module.get_parameter("net.0.weight"), Frozen().net[0].weight), "nothing moved it"
