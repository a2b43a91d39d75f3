"""data=arrays beyond pairs: sequences of unequal length, mappings, targets that are numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedpurin.config import ConfigError, DataConfig, PartitionConfig
from fedpurin.data import LabelledData, load, partition


def arrays(root: Path, target: str = "classes", **content: Any) -> LabelledData:
    np.savez(root / "a.npz", **content)
    return load(DataConfig(name="arrays", root=str(root / "a.npz"), target=target), 0)  # type: ignore[arg-type]


def test_sequences_of_unequal_length_are_filled_up_by_a_token_of_their_own(tmp_path: Path) -> None:
    data = arrays(
        tmp_path, x_train=[5, 0, 3, 7, 7], lengths_train=[2, 3], y_train=["a", "b"],
        x_test=[8, 1], lengths_test=[1, 1], y_test=["b", "a"],
    )  # fmt: skip
    assert (data.padding, data.vocabulary) == (9, 10)
    assert data.train.inputs.tolist() == [[5, 0, 9], [3, 7, 7]]  # type: ignore[attr-defined]
    assert data.test.inputs.tolist() == [[8, 9, 9], [1, 9, 9]]  # type: ignore[attr-defined]


def test_sequences_belong_to_clients(tmp_path: Path) -> None:
    lengths = np.arange(12) % 3 + 1
    data = arrays(tmp_path, x=np.arange(lengths.sum()) % 5, lengths=lengths, y=np.arange(12) % 2, client=list("uv") * 6)
    assert (data.padding, data.vocabulary) == (5, 6)
    parts = partition(PartitionConfig(name="natural", num_clients=2), data, 0)
    assert [len(part) for part in parts.train] == [5, 5]


def test_further_arrays_make_mappings(tmp_path: Path) -> None:
    data = arrays(tmp_path, ids=[[1, 2]] * 6, weight=[0.5] * 6, y=[0, 1] * 3)
    batch = next(data.train.batches([0], 1))
    assert list(batch) == ["ids", "weight", "y"]
    assert (batch["ids"].tolist(), batch["weight"].dtype) == ([[1, 2]], torch.float32)
    assert data.class_names == ("0", "1")


def test_numbers_as_targets(tmp_path: Path) -> None:
    x = np.arange(20.0).reshape(10, 2)
    data = arrays(tmp_path, "numbers", x=x, y=np.stack([x[:, 0], -x[:, 0]], axis=1))
    assert (data.class_names, data.num_outputs) == ((), 2)
    assert (data.train.num_samples, data.test.num_samples) == (8, 2)
    assert data.train.labels is not None
    assert torch.equal(data.train.labels[:, 0], -data.train.labels[:, 1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": [1, 2, 3], "lengths": [1, 1], "y": [0, 1]}, "add up to the 3 tokens of x; they add up to 2"),
        ({"x": [1.5, 2.0], "lengths": [1, 1], "y": [0, 1]}, "must be whole numbers; they are float64"),
        ({"x": [[1.0]] * 2, "y": [0.5, 1.5]}, "labels are fractions; set data.target=numbers for a regression"),
        ({"x": [[1.0]] * 2, "y": [[0, 1]] * 2}, r"labels have the shape \[\d, 2\]"),
        ({"x_train": [[1.0]], "y_train": [0], "y_test": [0]}, "x is there for one split only"),
        (
            {"x_train": [[1.0]], "y_train": [0], "x_test": [[1.0]], "y_test": [0], "more": [1]},
            "more belongs to neither",
        ),
        ({"y": [0, 1]}, "holds y; it needs x, y"),
        ({"x": [[1.0], [np.nan]] * 2, "y": [0, 1] * 2}, "a.npz: x holds numbers that are not finite"),
        ({"x": [[1.0], [1e300]] * 2, "y": [0, 1] * 2}, "a.npz: x holds numbers that are not finite in float32"),
        ({"x": [[1.0]] * 4, "w": [1.0, np.inf] * 2, "y": [0, 1] * 2}, "a.npz: w holds numbers that are not finite"),
    ],
)
def test_mistakes_in_arrays(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arrays(tmp_path, **content)


@pytest.mark.parametrize("cut", ["end", "middle"])
def test_a_damaged_file_is_named(tmp_path: Path, cut: str) -> None:
    np.savez_compressed(path := tmp_path / "a.npz", x=np.arange(4000.0).reshape(1000, 4), y=[0, 1] * 500)
    content = bytearray(path.read_bytes())
    if cut == "end":
        del content[len(content) // 2 :]
    else:
        content[300:400] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.npz cannot be read as arrays"):
        load(DataConfig(name="arrays", root=str(path)), 0)


@pytest.mark.parametrize("owners", [{}, {"client": ["u", "u", "v", "v"]}])
def test_one_sample_of_each_group_is_left_to_train_on(tmp_path: Path, owners: dict[str, Any]) -> None:
    np.savez(tmp_path / "a.npz", x=np.eye(4), y=[0, 0, 1, 1], **owners)
    data = load(DataConfig(name="arrays", root=str(tmp_path / "a.npz"), test_share=0.8), 0)
    for split in (data.train, data.test):
        assert split.labels is not None
        assert sorted(split.labels.tolist()) == [0, 1]
