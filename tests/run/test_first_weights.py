"""trainer.init=per_client: private parts start apart, by streams of the clients' own; shared parts start the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedpurin
from fedpurin import ConfigError
from fedpurin.hooks import RunCallback
from fedpurin.space import ParameterSpace
from tests.command import run_command
from tests.methods.tiny import TEST, TRAIN, Plain

OPTIONS = [
    "partition.num_clients=3", "trainer.rounds=1", "trainer.local_epochs=1", "callbacks.progress=null", "checkpoint.every=0",
    "trainer.executor=serial",
]  # fmt: skip


class Starts(RunCallback):
    """Keeps the clients' vectors as they are before the first round."""

    def on_run_start(self, federation: Any) -> None:
        self.space: ParameterSpace = federation.trainer.space
        self.vectors: list[Tensor] = [federation.clients[client_id].vector.clone() for client_id in range(3)]


def starts(folder: Path, *options: str, **brought: Any) -> tuple[list[Tensor], list[Tensor], list[str]]:
    """Shared and private part of each client's first vector, and the names in the private one."""
    seen = Starts()
    fedpurin.simulate([*OPTIONS, *options], callbacks=[seen], run_dir=folder, **brought)
    shared = seen.space.shared
    private = seen.space.layout.segments[len(shared) :]
    return (
        [vector[: shared.length] for vector in seen.vectors],
        [torch.cat([vector[:0], *(vector[s.slice] for s in private)]) for vector in seen.vectors],
        [s.name for s in private],
    )


def test_heads_of_a_configured_model_start_apart(tmp_path: Path) -> None:
    same = starts(tmp_path / "same", "method=fedper")
    apart = starts(tmp_path / "apart", "method=fedper", "trainer.init=per_client")
    again = starts(tmp_path / "again", "method=fedper", "trainer.init=per_client")
    assert apart[2] == ["backbone.9.weight", "backbone.9.bias"]
    for vector in apart[0]:
        assert torch.equal(vector, same[0][0])
    assert torch.equal(same[1][0], same[1][1])
    assert len({tuple(vector.tolist()) for vector in apart[1]}) == 3
    assert all(torch.equal(one, other) for one, other in zip(apart[1], again[1], strict=True))
    bound = 64**-0.5  # torch's own draw of a linear layer with 64 inputs
    assert 0.9 * bound < float(apart[1][2].abs().max()) <= bound


def test_heads_of_a_module_that_was_handed_over_start_apart(tmp_path: Path) -> None:
    module, data = Plain(), {"train": TRAIN, "test": TEST}
    shared, private, names = starts(tmp_path, "method=fedper", "trainer.init=per_client", module=module, **data)
    assert names == ["net.3.weight", "net.3.bias"]
    assert torch.equal(shared[0][:30], module.net[0].weight.flatten())
    assert torch.equal(shared[0], shared[1])
    assert not torch.equal(private[0], private[1])


def test_a_layer_that_cannot_be_drawn_again_is_named(tmp_path: Path) -> None:
    class Bare(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * self.scale

    with pytest.raises(
        ConfigError, match=r"trainer.init=per_client: scale belongs to a Bare, which has no reset_parameters"
    ):
        starts(tmp_path, "method=local", "trainer.init=per_client", module=Bare(), train=TRAIN, test=TEST)


def test_nothing_private_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    starts(tmp_path, "method=fedavg", "trainer.init=per_client")
    assert "trainer.init=per_client has no effect: with method=FedAvg nothing is private" in caplog.text


def command(folder: Path, *options: str) -> list[dict[str, Any]]:
    return run_command(
        folder, "partition.num_clients=4", "partition.train_per_client=60", "method=fedrod", "trainer.init=per_client",
        "trainer.rounds=2", "trainer.local_epochs=1", *options,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_and_a_resume_keep_the_bits(tmp_path: Path) -> None:
    one = command(tmp_path / "one")
    assert one == command(tmp_path / "two", "trainer.devices=2")
    command(tmp_path / "cut", "trainer.rounds=1")
    assert one == command(tmp_path / "cut", "resume=auto")
    assert one != command(tmp_path / "same", "trainer.init=same")
