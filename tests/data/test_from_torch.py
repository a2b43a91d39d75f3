"""Samples of any structure become tensors once, and batches with that structure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from fedpurin.config import ConfigError, PartitionConfig
from fedpurin.data import Pool, from_datasets, partition
from fedpurin.data.samples import Collated, Stacked
from tests.structures import Listed, mappings, numbers, pad, sequences, two_inputs


def test_mappings_give_mappings() -> None:
    data = from_datasets(*mappings())
    assert isinstance(data.train, Stacked)
    assert (data.train.num_samples, data.test.num_samples, data.num_classes) == (80, 40, 3)
    (batch,) = data.train.batches([5, 2], 2)
    source = mappings()[0]
    assert torch.equal(batch["features"], torch.stack([source[5]["features"], source[2]["features"]]))
    assert batch["more"]["label"].tolist() == batch["labels"].tolist() == [source[5]["labels"], source[2]["labels"]]
    assert sum(data.train.class_counts(range(80)).tolist()) == 80


def test_several_inputs_keep_their_order_and_types() -> None:
    data = from_datasets(*two_inputs())
    first, second, labels = next(data.train.batches([0, 1, 2], 3))
    assert (first.shape, second.shape, labels.dtype) == ((3, 2), (3, 4), torch.int64)
    tensors = TensorDataset(torch.zeros(4, 2, dtype=torch.float64), torch.ones(4, 3, dtype=torch.bool), torch.arange(4))
    whole = from_datasets(tensors, tensors)
    assert [part.dtype for part in next(whole.train.batches([0], 1))] == [torch.float32, torch.bool, torch.int64]
    assert whole.class_names == ("0", "1", "2", "3")


class Broken(Dataset[Any]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        if index == 3:
            raise OSError("the disk\nwent away")
        return torch.zeros(2), 0


def test_a_sample_that_cannot_be_read_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"^sample 3 of the training data set cannot be read: OSError: the disk went away$"
    ):
        from_datasets(Broken(), Broken())


def test_samples_that_are_not_finite_are_told() -> None:
    x = torch.zeros(6, 2)
    x[4, 1], x[5, 0] = torch.nan, torch.inf
    data = TensorDataset(x, torch.arange(6) % 2)
    with pytest.warns(UserWarning, match=r"2 of the training samples, the first of them 4, are not finite"):
        from_datasets(data, TensorDataset(torch.zeros(2, 2), torch.arange(2)))


def test_samples_that_require_a_gradient_are_data_all_the_same() -> None:
    data = TensorDataset(torch.ones(4, 2, requires_grad=True), torch.arange(4) % 2)
    read = from_datasets(data, data)
    assert isinstance(read.train, Pool)
    assert not read.train.inputs.requires_grad


def test_an_epoch_is_the_same_in_small_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    data = from_datasets(*mappings())

    def epoch() -> list[list[int]]:
        batches = data.train.batches(range(40), 7, generator=torch.Generator().manual_seed(1))
        return [batch["labels"].tolist() for batch in batches]

    whole = epoch()
    monkeypatch.setattr("fedpurin.data.samples.GATHER_BYTES", 1)
    assert epoch() == whole
    assert [len(part) for part in whole] == [7, 7, 7, 7, 7, 5]


def test_numbers_as_targets_have_no_classes_and_one_stratum() -> None:
    data = from_datasets(*numbers())
    assert isinstance(data.train, Pool)
    assert (data.class_names, data.strata, data.num_outputs) == ((), ("samples",), 1)
    assert data.train.class_counts([0, 1]) is None
    parts = partition(PartitionConfig(name="iid", num_clients=4), data, seed=0)
    assert parts.class_counts.tolist() == [[20], [20], [20], [20]]
    with pytest.raises(
        ConfigError, match="partition=dirichlet deals by classes, and the targets of data=custom are no"
    ):
        partition(PartitionConfig(name="dirichlet", num_clients=4), data, seed=0)


def test_a_collate_function_batches_what_differs_in_length() -> None:
    train, test, collate = sequences()
    data = from_datasets(train, test, collate=collate)
    assert isinstance(data.train, Collated)
    assert data.num_classes == 2
    batch = next(data.train.batches([3, 0], 2))
    assert torch.equal(batch["tokens"], pad([train[3], train[0]])["tokens"])
    with pytest.raises(ConfigError, match=r"training data set's samples differ \(.*simulate's collate"):
        from_datasets(train, test)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{"a": [1, 2], "y": 0}, {"a": [1], "y": 0}], r"differ at \['a'\] \(\[1\] torch.int64, \[2\] torch.int64\)"),
        ([{"a": 1.0, "y": 0}, {"b": 1.0, "y": 0}], "sample 1 of the training data set has other parts than sample 0"),
        ([{"text": "a line", "y": 0}], "sample 0 of the training data set holds a str"),
    ],
)
def test_what_cannot_be_batched_is_named(samples: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_datasets(Listed(samples), Listed(samples))


def test_the_key_of_the_class_can_be_named() -> None:
    samples = Listed([{"x": torch.zeros(2), "writer": 1, "y": 0}, {"x": torch.ones(2), "writer": 0, "y": 0}])
    assert from_datasets(samples, samples).num_classes == 1
    assert from_datasets(samples, samples, label="writer").num_classes == 2
    with pytest.raises(ConfigError, match=r"data.flip=True needs \(x, y\) pairs with images"):
        from_datasets(samples, samples, flip=True)
