"""The data sets by name: scikit-learn's digits, Fashion-MNIST, CIFAR-10 and CIFAR-100, and image folders.

Owns: `load`, and what each data set's content means. Does not own: finding and decoding files (files.py,
folder.py), resizing (images.py), what happens to a sample on its way to the model (pool.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedpurin.config import ConfigError, DataConfig
from fedpurin.data.arrays import read_arrays
from fedpurin.data.dataset import LabelledData, labelled_data
from fedpurin.data.files import PublishedFiles, read_idx, read_pickles
from fedpurin.data.folder import read_image_folder
from fedpurin.data.hugging_face import read_hugging_face
from fedpurin.data.images import conform
from fedpurin.data.leaf import read_leaf
from fedpurin.data.own import own_data
from fedpurin.data.tables import read_table
from fedpurin.seeding import numpy_generator

Split = tuple[Tensor, Tensor]
"""uint8 images [n, C, H, W] and int64 labels [n]."""

DIGITS_TEST_SHARE = 0.2

FASHION_MNIST = PublishedFiles(
    title="Fashion-MNIST",
    torchvision_class="FashionMNIST",
    folder="FashionMNIST/raw",
    files=tuple(
        (f"{split}-{content}-ubyte.gz", f"{split}-{content}-ubyte")
        for split in ("train", "t10k")
        for content in ("images-idx3", "labels-idx1")
    ),
    elsewhere=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's package dataset-fashion-mnist
)
FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

CIFAR10_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
CIFAR100_BATCHES = ("train", "test", "meta")


def load(config: DataConfig, seed: int) -> LabelledData:
    """Read the data set that `config` names, every image decoded once. `seed` draws the digits' test samples.

    Raises:
        ConfigError: no such data set, or files that are missing, damaged or do not fit together.
    """
    if config.own:
        return own_data(config, seed)
    readers: dict[str, Callable[[], tuple[Split, Split, Sequence[str]]]] = {
        "digits": lambda: _read_digits(seed),
        "fashion_mnist": lambda: _read_fashion_mnist(config),
        "cifar10": lambda: _read_cifar10(config),
        "cifar100": lambda: _read_cifar100(config),
    }
    own = {"arrays": read_arrays, "table": read_table, "image_folder": _read_image_folder}
    own |= {"huggingface": read_hugging_face, "leaf": read_leaf}
    if config.name in own:
        return own[config.name](config, seed)
    if config.name not in readers:
        names = ", ".join([*readers, *own, "custom"])
        raise ConfigError(f"data.name={config.name!r} is not possible: choose one of {names}")
    train, test, class_names = readers[config.name]()
    train, test = (conform(train[0], config), train[1]), (conform(test[0], config), test[1])
    return labelled_data(
        config.name, train, test, class_names,
        normalise=config.normalise, flip=config.flip, rotation=config.rotation, crop_padding=config.crop_padding,
    )  # fmt: skip


def _read_image_folder(config: DataConfig, seed: int) -> LabelledData:
    train, test, class_names, clients = read_image_folder(config)
    return labelled_data(
        config.name, train, test, class_names, clients=clients,
        normalise=config.normalise, flip=config.flip, rotation=config.rotation, crop_padding=config.crop_padding,
    )  # fmt: skip


def _read_digits(seed: int) -> tuple[Split, Split, Sequence[str]]:
    """1,797 handwritten digits of 8×8 pixels in 17 grey levels. They have no test set: a fifth of each class is one."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    generator = numpy_generator(seed, "data/digits")
    held_out = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        members = generator.permutation(np.flatnonzero(bunch.target == digit))
        held_out[members[: round(DIGITS_TEST_SHARE * len(members))]] = True
    test = torch.from_numpy(held_out)
    return (images[~test], labels[~test]), (images[test], labels[test]), [str(digit) for digit in range(10)]


def _read_fashion_mnist(config: DataConfig) -> tuple[Split, Split, Sequence[str]]:
    paths = FASHION_MNIST.find(config)
    splits = []
    for images_path, labels_path in (paths[:2], paths[2:]):
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if len(images) != len(labels):
            raise ConfigError(
                f"data.root: {images_path} holds {len(images)} images and {labels_path.name} {len(labels)} labels"
            )
        splits.append((torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))))
    return splits[0], splits[1], FASHION_MNIST_CLASSES


def _read_cifar10(config: DataConfig) -> tuple[Split, Split, Sequence[str]]:
    files = _cifar_files("CIFAR-10", "cifar-10-batches-py", CIFAR10_BATCHES)
    *train, test, meta = read_pickles(paths := files.find(config), CIFAR10_BATCHES)
    return _cifar_split(train, "labels", paths), _cifar_split([test], "labels", paths), meta["label_names"]


def _read_cifar100(config: DataConfig) -> tuple[Split, Split, Sequence[str]]:
    files = _cifar_files("CIFAR-100", "cifar-100-python", CIFAR100_BATCHES)
    train, test, meta = read_pickles(paths := files.find(config), CIFAR100_BATCHES)
    key = "fine_labels"
    return _cifar_split([train], key, paths), _cifar_split([test], key, paths), meta["fine_label_names"]


def _cifar_files(title: str, folder: str, batches: Sequence[str]) -> PublishedFiles:
    return PublishedFiles(
        title=title,
        torchvision_class=title.replace("-", ""),
        folder=folder,
        files=tuple((name,) for name in batches),
        archive=f"{title.lower()}-python.tar.gz",
    )


def _cifar_split(batches: Sequence[dict[str, Any]], key: str, paths: Sequence[Path]) -> Split:
    """Join batches whose `data` are rows of 3,072 bytes: 32×32 red, then green, then blue."""
    try:
        images = np.concatenate([np.asarray(batch["data"], dtype=np.uint8) for batch in batches])
        labels = np.concatenate([np.asarray(batch[key], dtype=np.int64) for batch in batches])
        images = images.reshape(len(labels), 3, 32, 32)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"data.root: the files in {paths[0].parent} are not CIFAR's ({error})") from None
    return torch.from_numpy(images), torch.from_numpy(labels)
