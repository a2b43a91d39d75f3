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
