"""What cannot be trained or tested is named before the first round."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import fedpurin
from fedpurin import ConfigError
from lightning_modules import ImageClassifier

DATA = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)
OVERRIDES = ["partition=iid", "trainer.rounds=1", "trainer.accelerator=cpu"]


def normed() -> ImageClassifier:
    return ImageClassifier(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), lr=0.1)


def test_clients_of_one_sample(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="client 0, 1, 2, 3, 4, 5, 6, 7 has one training sample"):
        fedpurin.simulate(
            [*OVERRIDES, "partition.num_clients=8"], module=normed(), train=DATA, test=DATA, run_dir=tmp_path
        )


def test_batches_of_one_sample(tmp_path: Path) -> None:
    overrides = [*OVERRIDES, "partition.num_clients=2", "trainer.batch_size=1"]
    with pytest.raises(ConfigError, match=r"trainer\.batch_size=1: batch normalisation"):
        fedpurin.simulate(overrides, module=normed(), train=DATA, test=DATA, run_dir=tmp_path)


@pytest.mark.parametrize(("given", "lacking"), [("train", "test"), ("test", "train")])
def test_one_data_set_of_two(tmp_path: Path, given: str, lacking: str) -> None:
    with pytest.raises(ConfigError, match=f"was given {given} and no {lacking}"):
        fedpurin.simulate(OVERRIDES, module=normed(), run_dir=tmp_path, **{given: DATA})


class Squeezes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).squeeze()


class Standardises(Squeezes):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net((x - x.mean(0)) / x.std(0)) if self.training else self.net(x)


FEW = TensorDataset(torch.randn(2, 3), torch.arange(2))
NINE = TensorDataset(torch.randn(9, 3), torch.arange(9) % 2)


@pytest.mark.parametrize(
    ("network", "train", "test", "said"),
    [
        (Squeezes, NINE, DATA, r"trainer.batch_size=4 leaves client 0 one training sample for the last batch; model: "),
        (Standardises, NINE, DATA, "client 0 one training sample for the last batch; model: the loss that .* returned is nan"),
        (Standardises, FEW, DATA, "client 0, 1 has one training sample, and model: the loss that .* returned is nan"),
        (Squeezes, DATA, FEW, r"client 0, 1 has one test sample in a batch \(trainer.batch_size=4\); model: "),
    ],
)  # fmt: skip
def test_what_else_fails_on_one_sample(
    tmp_path: Path, network: type[nn.Module], train: TensorDataset, test: TensorDataset, said: str
) -> None:
    overrides = [*OVERRIDES, "partition.num_clients=2", "trainer.batch_size=4"]
    with pytest.raises(ConfigError, match=said):
        fedpurin.simulate(overrides, module=network(), train=train, test=test, run_dir=tmp_path)


def test_the_last_sample_that_batch_normalisation_leaves_out_is_no_mistake(tmp_path: Path) -> None:
    overrides = [*OVERRIDES, "partition.num_clients=2", "trainer.batch_size=4"]
    result = fedpurin.simulate(overrides, module=normed(), train=NINE, test=DATA, run_dir=tmp_path)
    assert [result.federation.trainer.num_batches(client) for client in result.federation.clients.values()] == [1, 1]
