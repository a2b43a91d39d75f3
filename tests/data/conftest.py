"""Small data sets for the tests of fedpurin.data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch.utils.data import TensorDataset

from fedpurin.data import LabelledData, from_datasets

MakeData = Callable[[Sequence[int], Sequence[int]], LabelledData]


@pytest.fixture(scope="session")
def make_data() -> MakeData:
    """Data with so many training and test samples of each class; the one feature is the sample's index."""

    def make(train: Sequence[int], test: Sequence[int]) -> LabelledData:
        pools = []
        for counts in (train, test):
            labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
            labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
            pools.append(TensorDataset(torch.arange(len(labels)).float().unsqueeze(1), labels))
        names = [str(label) for label in range(len(train))]
        return from_datasets(*pools, class_names=names)

    return make
