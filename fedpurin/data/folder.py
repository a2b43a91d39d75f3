"""Folders of images, `<root>/{train,test}/<class>/**`, or the same for each client, `<root>/<client>/{train,test}/<class>/**`:
grey and colour, of any sizes, mixed.

Owns: the folder's rules and the decoding of its files. Does not own: what a size or channel option does to an
image (images.py).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fedpurin.config import ConfigError, DataConfig
from fedpurin.data.images import to_square, with_channels

GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "F")
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_LAYOUT = "<root>/{train,test}/<class>/*.{jpg,png,…}, or <root>/<client>/{train,test}/<class>/*"
SPLITS = ("train", "test")
MAX_PIXELS = 64 * 2**20
"""A file of a few kilobytes may claim any number; threads decode several at once, at four bytes a pixel and more."""

Split = tuple[Tensor, Tensor]
Owners = tuple[NDArray[Any], NDArray[Any]]

Item = TypeVar("Item")


@dataclass(frozen=True)
class ImageFiles:
    """One split: images in order, the class of each by name, and whose it is, where folders say so."""

    paths: list[Path]
    classes: list[str]
    owners: list[str] | None = None


def read_image_folder(config: DataConfig) -> tuple[Split, Split, Sequence[str], Owners | None]:
    """Both splits as uint8 images [n, C, S, S] with labels, the class names, sorted, and whose each image is.

    S is `data.image_size` or else the median of the training images' shorter sides; C is `data.channels`, or
    else 3 if any image of either split is in colour. Files with other endings than images' are passed over.

    Raises:
        ConfigError: no `data.root`, a split or class without images, test classes that are not the training
            classes, a file that cannot be decoded.
    """
    if config.root is None:
        raise ConfigError(f"data.root=null: data=image_folder needs the folder, laid out as {_LAYOUT}")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise ConfigError(f"data.root={root}: there is no such folder; it must be laid out as {_LAYOUT}")
    clients = [] if (root / "train").is_dir() or (root / "test").is_dir() else _clients_of(root)
    files = {split: _list_of_clients(root, clients, split) if clients else _list(root, split) for split in SPLITS}
    _check_classes(root, *(set(files[split].classes) for split in SPLITS), of_clients=bool(clients))
    names = sorted(set(files["train"].classes))
    shapes = {split: _in_threads(_inspect, files[split].paths) for split in SPLITS}
    surplus = _surplus_bits([path for split in SPLITS for path in files[split].paths])
    size = config.image_size or int(np.median([side for side, _ in shapes["train"]]))
    in_colour = any(colour for both in shapes.values() for _, colour in both)
    channels = config.channels or (3 if in_colour else 1)
    splits = []
    for split in SPLITS:
        paths = files[split].paths
        images = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)

        def decode(item: tuple[int, Path], into: Tensor = images) -> None:
            into[item[0]] = to_square(with_channels(_decode(item[1], surplus), channels), size)

        _in_threads(decode, list(enumerate(paths)))
        places = {name: number for number, name in enumerate(names)}
        splits.append((images, torch.tensor([places[name] for name in files[split].classes])))
    owners = None
    if clients:
        train, test = ([_as_utf8(name) for name in files[split].owners or ()] for split in SPLITS)
        owners = (np.array(train), np.array(test))
    return splits[0], splits[1], [_as_utf8(name) for name in names], owners


def _as_utf8(name: str) -> str:
    """A folder's name, the same in every locale: Python reads it with the terminal's encoding, and it is UTF-8 on disk."""
    return os.fsencode(name).decode(errors="replace")


def _clients_of(root: Path) -> list[str]:
    """Folders that hold a train/ and a test/ of their own; empty where none does."""
    folders = [name for name in _subfolders(root) if any((root / name / split).is_dir() for split in SPLITS)]
    if lacking := [name for name in folders if not all((root / name / split).is_dir() for split in SPLITS)]:
        raise ConfigError(f"data.root={root}: client {_some(lacking)} has no train/ or no test/; each needs both")
    return folders


def _list_of_clients(root: Path, clients: Sequence[str], split: str) -> ImageFiles:
    """A split over all clients, by client and then by class; a client need not have every class."""
    paths, classes, owners = [], [], []
    for client in clients:
        for name in _subfolders(root / client / split):
            found = sorted(_images_below(root / client / split / name))
            paths += found
            classes += [name] * len(found)
            owners += [client] * len(found)
        if client not in owners:
            raise ConfigError(f"data.root={root}: no image in {client}/{split}/<class>/; each client needs one")
    _check_inside(root, paths)
    return ImageFiles(paths, classes, owners)


def _list(root: Path, split: str) -> ImageFiles:
    """A split by class, both sorted by name; every class folder needs an image."""
    if not (root / split).is_dir():
        raise ConfigError(f"data.root={root}: there is no folder {split}/ in it; it must be laid out as {_LAYOUT}")
    names = _subfolders(root / split)
    if not names:
        raise ConfigError(f"data.root={root}: {split}/ holds no class folder; it must be laid out as {_LAYOUT}")
    by_class = {name: sorted(_images_below(root / split / name)) for name in names}
    if empty := [name for name, files in by_class.items() if not files]:
        raise ConfigError(
            f"data.root={root}: no image in {split}/ for class {_some(empty)}; each class needs at least one "
            f"({' '.join(IMAGE_SUFFIXES)})"
        )
    pairs = [(path, name) for name, files in by_class.items() for path in files]
    _check_inside(root, [path for path, _ in pairs])
    return ImageFiles([path for path, _ in pairs], [name for _, name in pairs])


def _check_inside(root: Path, paths: Sequence[Path]) -> None:
    """See that no link leads out of the root: a data set of somebody else's is no way to other files of this machine.

    Raises:
        ConfigError: names the link and where it leads.
    """
    inside, folders = root.resolve(), {path.parent for path in paths}
    resolved = {folder: folder.resolve() for folder in folders}
    for path in paths:
        target = path.resolve() if path.is_symlink() else resolved[path.parent] / path.name
        if not target.is_relative_to(inside):
            raise ConfigError(
                f"data.root={root}: {path} leads to {target}, out of the folder; copy what is meant, or remove the link"
            )


def _check_classes(root: Path, train: set[str], test: set[str], *, of_clients: bool) -> None:
    """The same classes in both splits; among clients, a class that nobody is tested on is none of our business."""
    only = {"train": set() if of_clients else train - test, "test": test - train}
    if named := "; ".join(f"only in {split}/: {_some(sorted(names))}" for split, names in only.items() if names):
        raise ConfigError(f"data.root={root}: train/ and test/ must hold the same classes ({named})")


def _subfolders(folder: Path) -> list[str]:
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX"))
    )


def _images_below(folder: Path) -> Iterator[Path]:
    """Images at any depth (patients, downloads); names that begin with a dot are other programs' files."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file():
            yield path


def _highest_level(path: Path) -> int:
    """The greatest value of an image of more than 8 bits a pixel, 0 of any other."""

    def highest(image: Image.Image) -> int:
        return int(np.asarray(image).max()) if image.mode.startswith("I") else 0

    return _read(path, highest)


def _surplus_bits(paths: Sequence[Path]) -> int:
    """Low bits that these images drop to fit a byte: by the depth, 8 to 16 bits, that their greatest value needs."""
    highest = max(_in_threads(_highest_level, paths), default=0)
    for bits in (8, 10, 12, 14, 16):
        if highest < 2**bits:
            return bits - 8
    raise ConfigError(f"data.root: images have levels up to {highest}; at most 16 bits (65535) a pixel are possible")


def _inspect(path: Path) -> tuple[int, bool]:
    """Shorter side in pixels, and whether the image is in colour; reads the header only."""
    return _read(path, lambda image: (min(image.size), image.mode not in GREY_MODES))


def _decode(path: Path, surplus_bits: int) -> Tensor:
    """An image as uint8 [C, H, W], C = 1 or 3, turned upright as its EXIF tag says; transparency is dropped."""

    def convert(image: Image.Image) -> Tensor:
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a camera's photograph and its previews
        if frames > 1:
            raise ValueError(f"it holds {frames} frames or pages, and a file is one sample; save them one to a file")
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F":
            raise ValueError("its pixels are floating numbers of unknown range; save it with 8 or 16 bits a pixel")
        if upright.mode.startswith("I"):  # 10 to 16 bits a pixel, which PIL would clip at 255
            levels = np.asarray(upright).astype(np.int64).clip(0) >> surplus_bits
            return torch.from_numpy(levels.astype(np.uint8)).unsqueeze(0)
        pixels = np.asarray(upright.convert("L" if upright.mode in GREY_MODES else "RGB"))
        return torch.from_numpy(np.atleast_3d(pixels).transpose(2, 0, 1).copy())

    return _read(path, convert)


def _read(path: Path, use: Callable[[Image.Image], Item]) -> Item:
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels; more than {MAX_PIXELS:,} are not read")
            return use(image)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConfigError(f"data.root: {path} cannot be decoded ({error}); replace or remove it") from None


Argument = TypeVar("Argument")


def _in_threads(function: Callable[[Argument], Item], items: Sequence[Argument]) -> list[Item]:
    """PIL decodes outside Python's lock."""
    ignored = warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)  # `_read` refuses them
    with ignored, ThreadPoolExecutor() as executor:
        return list(executor.map(function, items))


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
