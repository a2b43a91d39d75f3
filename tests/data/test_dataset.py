"""Any torch data set becomes pools, and mistakes in it are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from fedpurin.config import ConfigError
from fedpurin.data import from_datasets
from fedpurin.data.dataset import channel_statistics, labelled_data
from tests.structures import Listed


def test_statistics_are_exact_and_a_constant_channel_gets_one() -> None:
    images = torch.tensor([[[[0, 2], [4, 6]], [[9, 9], [9, 9]]]], dtype=torch.uint8)
    mean, std = channel_statistics(images)
    assert mean.tolist() == [3.0, 9.0]
    assert std.tolist() == pytest.approx([5**0.5, 1.0])


def test_statistics_agree_with_torch() -> None:
    images = torch.randint(256, (50, 3, 5, 5), dtype=torch.uint8)
    mean, std = channel_statistics(images)
    values = images.double()
    assert torch.allclose(mean.double(), values.mean(dim=(0, 2, 3)))
    assert torch.allclose(std.double(), values.std(dim=(0, 2, 3), correction=0))


def test_pil_images_are_normalised_by_the_training_pool() -> None:
    train = Listed([(Image.new("RGB", (4, 4), (value, 0, 0)), 0) for value in (10, 30)])
    test = Listed([(Image.new("RGB", (4, 4), (40, 0, 0)), 1)])
    data = from_datasets(train, test)
    assert (data.num_classes, data.in_channels, data.image_size) == (2, 3, 4)
    ((x, _),) = data.test.batches([0], 1)
    assert x[0, 0].unique().tolist() == [2.0]  # (40 − 20) / 10


@pytest.mark.parametrize(("normalise", "value"), [("standardise", 2.0), ("unit", 40 / 255), ("none", 40.0)])
def test_normalise(normalise: str, value: float) -> None:
    train, test = torch.tensor([10, 30], dtype=torch.uint8), torch.tensor([40], dtype=torch.uint8)
    pairs = [(x.view(-1, 1, 1, 1), torch.zeros(len(x), dtype=torch.int64)) for x in (train, test)]
    data = labelled_data("tiny", pairs[0], pairs[1], ["a"], normalise=normalise)
    ((x, _),) = data.test.batches([0], 1)
    assert x.item() == pytest.approx(value)


def test_float_samples_are_used_as_they_are() -> None:
    samples = torch.randn(3, 7)
    data = from_datasets(TensorDataset(samples, torch.tensor([0, 1, 2])), Listed([(samples[0], 2)]))
    assert (data.num_classes, data.in_channels, data.image_size) == (3, 7, None)
    assert data.train.mean is None
    assert torch.equal(data.train.inputs, samples)


def test_arrays_and_grey_uint8_tensors_get_a_channel() -> None:
    data = from_datasets(
        TensorDataset(torch.zeros(2, 5, 5, dtype=torch.uint8), torch.tensor([0, 1])),
        Listed([(np.zeros((5, 5), dtype=np.uint8), np.int64(1))]),
    )
    assert data.train.sample_shape == (1, 5, 5)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (Listed([]), Listed([(torch.zeros(1), 0)]), "training data set is empty"),
        (Listed([(torch.zeros(1), 0)]), Listed([]), "test data set is empty"),
        (Listed([(torch.zeros(1), 0), (torch.zeros(2), 0)]), Listed([(torch.zeros(1), 0)]), "samples differ"),
        (Listed([(torch.zeros(1), 0)]), Listed([(torch.zeros(2), 0)]), "must agree"),
        (Listed([(torch.zeros(1), -1)]), Listed([(torch.zeros(1), 0)]), "labels run from -1"),
        (Listed([(torch.zeros(1), 0, 0)]), Listed([(torch.zeros(1), 0)]), "different structure; they must agree"),
        (
            Listed([(torch.zeros(1), "cat")]),
            Listed([(torch.zeros(1), 0)]),
            "sample 0 of the training data set holds a str",
        ),
        (iter(()), Listed([(torch.zeros(1), 0)]), "it needs a length and samples by number"),
        (Listed([(torch.zeros(1, dtype=torch.complex64), 0)]), Listed([(torch.zeros(1), 0)]), "complex64; integers"),
        (
            Listed([(torch.zeros(1), n) for n in (3, 70, 500)]),
            Listed([(torch.zeros(1), 3)]),
            "3 different numbers up to 500",
        ),
        (Listed([(torch.zeros(1, dtype=torch.uint8), 0)]), Listed([(torch.zeros(1), 0)]), "stands for images"),
        (
            Listed([(np.zeros((32, 32, 3), dtype=np.uint8), 0)]),
            Listed([(np.zeros((32, 32, 3), dtype=np.uint8), 0)]),
            r"training samples are 32 × 32 × 3 uint8, and images are \[C, H, W\]",
        ),
        (
            TensorDataset(torch.zeros(2, 1), torch.zeros(2)),
            Listed([(torch.zeros(1), 0)]),
            r"test targets \[\] torch.int64",
        ),
    ],
)
def test_mistakes_are_named(train: Any, test: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_datasets(train, test)


def test_tokens_reach_the_model_as_integers() -> None:
    tokens = torch.tensor([[5, 300], [7, 2]], dtype=torch.int32)
    data = from_datasets(TensorDataset(tokens, torch.tensor([0, 1])), TensorDataset(tokens, torch.tensor([0, 1])))
    ((x, _),) = data.train.batches([1, 0], 2)
    assert x.dtype == torch.int64
    assert x.tolist() == [[7, 2], [5, 300]]


def test_a_class_without_samples_is_told() -> None:
    pairs = Listed([(torch.zeros(1), 1), (torch.zeros(1), 2)])
    with pytest.warns(UserWarning, match="1 of the classes 0 to 2"):
        assert from_datasets(pairs, pairs).num_classes == 3
