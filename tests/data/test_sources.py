"""The published formats from small files of our own, in every place where they may lie, and damaged ones."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedpurin.data.files as files_module
from fedpurin.config import ConfigError, DataConfig
from fedpurin.data import load

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def write_fashion(folder: Path, *, gzipped: bool = True) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 12), ("t10k", 10)):
        arrays[f"{split}-images-idx3-ubyte"] = generator.integers(256, size=(count, 28, 28), dtype=np.uint8)
        arrays[f"{split}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    for name, array in arrays.items():
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return arrays


def cifar_files(fine: bool) -> dict[str, bytes]:
    generator = np.random.default_rng(0)
    key, names = ("fine_labels", "fine_label_names") if fine else ("labels", "label_names")
    classes = 100 if fine else 10
    splits = ["train", "test"] if fine else [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    contents: dict[str, Any] = {
        name: {"data": generator.integers(256, size=(4, 3072), dtype=np.uint8), key: [0, 1, 2, classes - 1]}
        for name in splits
    }
    contents["meta" if fine else "batches.meta"] = {names: [f"class {label}" for label in range(classes)]}
    return {name: pickle.dumps(content, protocol=2) for name, content in contents.items()}


def write_archive(path: Path, folder: str, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may leave the machine; the search for data starts in an empty folder."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network in tests")

    for name in ("FashionMNIST", "CIFAR10", "CIFAR100"):
        monkeypatch.setattr(f"torchvision.datasets.{name}", refuse)
    monkeypatch.setattr(files_module, "DOWNLOAD_FOLDER", tmp_path / "data")


def test_digits() -> None:
    data = load(DataConfig(name="digits"), seed=0)
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, 8)
    assert (data.train.num_samples, data.test.num_samples) == (1438, 359)
    assert int(data.train.inputs.max()) == 16
    shares = torch.bincount(data.test.labels) / torch.bincount(torch.cat([data.train.labels, data.test.labels]))
    assert (shares - 0.2).abs().max() < 0.005
    assert torch.equal(load(DataConfig(name="digits"), seed=0).test.inputs, data.test.inputs)
    assert not torch.equal(load(DataConfig(name="digits"), seed=1).test.inputs, data.test.inputs)


@pytest.mark.parametrize("folder", ["", "FashionMNIST/raw"])
@pytest.mark.parametrize("gzipped", [True, False])
def test_fashion_mnist_lies_bare_or_where_torchvision_puts_it(tmp_path: Path, folder: str, gzipped: bool) -> None:
    arrays = write_fashion(tmp_path / folder, gzipped=gzipped)
    data = load(DataConfig(name="fashion_mnist", root=str(tmp_path)), seed=0)
    assert data.class_names[9] == "Ankle boot"
    assert np.array_equal(data.train.inputs[:, 0].numpy(), arrays["train-images-idx3-ubyte"])
    assert np.array_equal(data.test.labels.numpy(), arrays["t10k-labels-idx1-ubyte"])


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_of_debian_is_found_by_itself() -> None:
    data = load(DataConfig(name="fashion_mnist", download=False), seed=0)
    assert (data.train.num_samples, data.test.num_samples) == (60_000, 10_000)
    assert torch.bincount(data.train.labels).tolist() == [6000] * 10
    assert data.train.mean is not None
    assert float(data.train.mean) / 255 == pytest.approx(0.2860, abs=1e-4)  # the published statistics
    assert data.train.std is not None
    assert float(data.train.std) / 255 == pytest.approx(0.3530, abs=1e-4)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("place", ["root", "inside", "archive", "archive itself"])
def test_cifar_from_folder_or_archive(tmp_path: Path, name: str, place: str) -> None:
    fine = name == "cifar100"
    folder = "cifar-100-python" if fine else "cifar-10-batches-py"
    archive = tmp_path / ("cifar-100-python.tar.gz" if fine else "cifar-10-python.tar.gz")
    files = cifar_files(fine)
    if place.startswith("archive"):
        write_archive(archive, folder, files)
    else:
        target = tmp_path if place == "root" else tmp_path / folder
        target.mkdir(exist_ok=True)
        for file, content in files.items():
            (target / file).write_bytes(content)
    data = load(DataConfig(name=name, root=str(archive if place == "archive itself" else tmp_path)), seed=0)
    assert data.train.sample_shape == (3, 32, 32)
    assert data.train.num_samples == (4 if fine else 20)
    assert data.class_names[1] == "class 1"
    first = pickle.loads(files["train" if fine else "data_batch_1"])["data"][0]
    assert np.array_equal(data.train.inputs[0].numpy().ravel(), first)


def test_size_and_channels_are_conformed(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    data = load(DataConfig(name="fashion_mnist", root=str(tmp_path), image_size=32, channels=3), seed=0)
    assert data.train.sample_shape == (3, 32, 32)
    assert torch.equal(data.train.inputs[:, 0], data.train.inputs[:, 2])


def damage_nothing_there(root: Path) -> str:
    return "no Fashion-MNIST there, and the download failed .no network in tests."


def damage_one_missing(root: Path) -> str:
    write_fashion(root)
    (root / "t10k-labels-idx1-ubyte.gz").unlink()
    return "lacks t10k-labels-idx1-ubyte.gz; give a folder"


def damage_truncated_gzip(root: Path) -> str:
    write_fashion(root)
    path = root / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-500])
    return "train-images-idx3-ubyte.gz cannot be read"


def damage_truncated_plain(root: Path) -> str:
    write_fashion(root, gzipped=False)
    path = root / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    return r"it says 12 × 28 × 28 and holds 9407 bytes"


def damage_empty(root: Path) -> str:
    write_fashion(root)
    (root / "train-images-idx3-ubyte.gz").write_bytes(b"")
    return "does not start like an IDX file"


def damage_not_gzip(root: Path) -> str:
    write_fashion(root)
    (root / "train-labels-idx1-ubyte.gz").write_bytes(b"<html>not found</html>")
    return "train-labels-idx1-ubyte.gz cannot be read"


def damage_counts(root: Path) -> str:
    write_fashion(root)
    (root / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(11, dtype=np.uint8))))
    return "12 images and train-labels-idx1-ubyte.gz 11 labels"


def damage_labels(root: Path) -> str:
    write_fashion(root)
    (root / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.full(12, 10, dtype=np.uint8))))
    return "training labels run from 10 to 10; 10 classes have 0 to 9"


@pytest.mark.parametrize(
    "damage",
    [
        damage_nothing_there,
        damage_one_missing,
        damage_truncated_gzip,
        damage_truncated_plain,
        damage_empty,
        damage_not_gzip,
        damage_counts,
        damage_labels,
    ],
)
def test_damaged_fashion_mnist_is_named(tmp_path: Path, damage: Callable[[Path], str]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    message = damage(root)
    with pytest.raises(ConfigError, match=message) as caught:
        load(DataConfig(name="fashion_mnist", root=str(root)), seed=0)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_root_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    root = tmp_path / "typo"
    with pytest.raises(ConfigError, match=rf"data\.root={root}: there is no such folder; give a folder that holds"):
        load(DataConfig(name="cifar10", root=str(root)), seed=0)
    assert not root.exists()


def test_without_download_the_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"CIFAR-100 is not in .*data; give a folder that holds train, test, meta"):
        load(DataConfig(name="cifar100", download=False), seed=0)


def test_truncated_archive_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    write_archive(archive, "cifar-10-batches-py", cifar_files(fine=False))
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(ConfigError, match=r"cifar-10-python\.tar\.gz cannot be read"):
        load(DataConfig(name="cifar10", root=str(tmp_path)), seed=0)


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.system, ("touch harmed",)

    for name, content in cifar_files(fine=True).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "train").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ConfigError, match=r"train cannot be read \(it wants to call posix\.system\)"):
        load(DataConfig(name="cifar100", root=str(tmp_path)), seed=0)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"data\.name='mnist' is not possible: choose one of digits, fashion_mnist"):
        load(DataConfig(name="mnist"), seed=0)
