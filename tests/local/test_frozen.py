"""Frozen parts cost neither memory a client nor bytes: what a client keeps and sends is the head or the adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fedpurin
from fedpurin.run.checkpoint import find_all
from fedpurin.run.export import personal_model
from tests.methods.tiny import TEST, TRAIN, Tiny

OPTIONS = [
    "partition=iid", "partition.num_clients=4", "trainer.rounds=2", "trainer.local_epochs=1", "callbacks.progress=null",
    "checkpoint.every=1", "method=fedavg", "exchange=direct",
]  # fmt: skip


class Frozen(Tiny):
    """The body with its batch norm is frozen and stays in evaluation mode; the head of 5 · 3 + 3 numbers trains."""

    def __init__(self) -> None:
        super().__init__()
        self.net[:3].requires_grad_(False)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.net[:3].eval()
        return self


class Adapted(Frozen):
    """A rank-one adapter of 6 + 5 numbers beside the first layer, and nothing else that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)
        self.down, self.up = nn.Linear(6, 1, bias=False), nn.Linear(1, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.net[0](x) + self.up(self.down(x))
        return self.net[3](self.net[2](self.net[1](hidden)))


@pytest.mark.parametrize("executor", ["serial", "cohort"])
@pytest.mark.parametrize(("module", "count"), [(Frozen, 18), (Adapted, 11), (Tiny, 63)])
def test_clients_keep_and_send_what_trains(tmp_path: Path, module: type[Tiny], count: int, executor: str) -> None:
    own = module()
    result = fedpurin.simulate(
        [*OPTIONS, f"trainer.executor={executor}", "trainer.cohort=2" if executor == "cohort" else "trainer.cohort=auto"],
        module=own, train=TRAIN, test=TEST, run_dir=tmp_path,
    )  # fmt: skip
    federation = result.federation
    assert federation.trainer.space.layout.size == count
    client = federation.clients[0]
    # Each tensor starts at a multiple of 64 elements.
    assert len(client.vector) == 64 * len(federation.trainer.space.layout)
    assert list(client.buffers) == (
        [f"net.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")] if module is Tiny else []
    )
    values = 4 * count * 4  # float32, four clients
    assert values <= result.history[-1]["bytes/up"] <= values + 4 * 100  # headers
    assert result.history[-1]["bytes/dense_up"] < values + 4 * 100
    frozen = {name for name, parameter in own.named_parameters() if not parameter.requires_grad}
    copies = [dict(result.model(number).named_parameters()) for number in (0, 3)]
    for name in frozen:
        assert all(torch.equal(copy[name], dict(own.named_parameters())[name]) for copy in copies)
    if module is Frozen:
        assert torch.equal(result.model(2).net[1].running_mean, torch.zeros(5))


def test_a_checkpoint_holds_what_is_frozen_once(tmp_path: Path) -> None:
    fedpurin.simulate(OPTIONS, module=Frozen(), train=TRAIN, test=TEST, run_dir=tmp_path)
    checkpoint = find_all(tmp_path)[-1]
    model = personal_model(checkpoint, 1)
    again = Frozen()
    again.load_state_dict(model)
    assert torch.equal(again.net[0].weight, Frozen().net[0].weight)
    assert not torch.equal(again.net[3].weight, Frozen().net[3].weight)
    assert json.loads((tmp_path / "summary.json").read_text())["num_parameters"] == 18
