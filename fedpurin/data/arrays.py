"""data=arrays: the user's own arrays in .npz or .safetensors files, or folders of .npy files.

    x, y [, client]                 pairs; y_train, y_test and so on where the file has a test set
    x flat, lengths, y              sequences of whole numbers of unequal length, one after the other in x
    any other names, and y          batches are mappings of all arrays by name

Owns: which names are expected and what they mean. Does not own: the split and the targets (assemble.py), tables (tables.py).
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from fedpurin.config import ConfigError, DataConfig
from fedpurin.data.assemble import Columns, assemble, finite, hold_out, owners_of, root_of, targets_of
from fedpurin.data.dataset import LabelledData, refuse_scaling
from fedpurin.data.images import check_order
from fedpurin.data.samples import Stacked

_LAYOUT = "x, y and optionally client; or x_train, y_train, x_test, y_test and optionally client_train, client_test"


def read_arrays(config: DataConfig, seed: int) -> LabelledData:
    """`data.root`: a .npz or .safetensors file, or a folder of .npy files.

    Raises:
        ConfigError: a missing file or array, or arrays that do not fit together.
    """
    path = root_of(config, "a .npz or .safetensors file or a folder of .npy files")
    parts = _split_by_name(path, _read_files(path))
    padding = _pad(path, parts)
    for part in parts:
        _check_lengths(path, part)
    if len(parts) == 1:
        whole = parts[0]
        held_out = hold_out(config, whole["y"], whole.get("client"), seed)
        parts = [{name: array[rows] for name, array in whole.items()} for rows in (~held_out, held_out)]
    clients = [part.pop("client", None) for part in parts]
    if set(parts[0]) == {"x", "y"}:
        return assemble(config, [_inputs(p["x"], path) for p in parts], [p["y"] for p in parts], clients, padding)
    return _mappings(config, parts, clients, path)


def _read_files(path: Path) -> Columns:
    try:
        if path.is_dir():
            return {file.stem: np.load(file, allow_pickle=False) for file in sorted(path.glob("*.npy"))}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"data.root={path} cannot be read as arrays ({error})") from None
    raise ConfigError(f"data.root={path}: data=arrays reads .npz, .safetensors, or a folder of .npy files")


def _read_safetensors(path: Path) -> Columns:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise ConfigError(f"data.root={path}: .safetensors files need the package safetensors") from None
    try:
        arrays: Columns = load_file(path)
    except SafetensorError as error:
        raise ConfigError(f"data.root={path} cannot be read as arrays ({error})") from None
    return arrays


def _split_by_name(path: Path, arrays: Columns) -> list[Columns]:
    """Training and test arrays by their bare names, or all of them where the file has no test set."""
    if not any(name in arrays for name in ("y_train", "y_test")):
        parts = [arrays]
    else:
        parts = [{n.removesuffix(e): a for n, a in arrays.items() if n.endswith(e)} for e in ("_train", "_test")]
        if left := sorted(name for name in arrays if not name.endswith(("_train", "_test"))):
            raise ConfigError(
                f"data.root={path}: {', '.join(left)} belongs to neither split; end names in _train or _test"
            )
        if set(parts[0]) != set(parts[1]):
            only = sorted(set(parts[0]) ^ set(parts[1]))
            raise ConfigError(f"data.root={path}: {', '.join(only)} is there for one split only; it needs {_LAYOUT}")
    if "y" not in parts[0] or not set(parts[0]) - {"y", "client"}:
        raise ConfigError(f"data.root={path} holds {', '.join(arrays) or 'no array'}; it needs {_LAYOUT}")
    return parts


def _pad(path: Path, parts: list[Columns]) -> int | None:
    """Make sequences that lie one after the other in x of one length, by a token that none of them has; which one."""
    if not all({"x", "lengths"} <= set(part) and part["x"].ndim == 1 for part in parts):
        return None
    for part in parts:
        tokens, lengths = part["x"], part["lengths"]
        if tokens.dtype.kind not in "iu" or lengths.dtype.kind not in "iu" or lengths.ndim != 1:
            raise ConfigError(
                f"data.root={path}: x and lengths must be whole numbers; they are {tokens.dtype}, {lengths.dtype}"
            )
        if lengths.min(initial=1) < 1 or lengths.sum() != len(tokens):
            raise ConfigError(
                f"data.root={path}: lengths must be from 1 and add up to the {len(tokens)} tokens of x; they add up to "
                f"{lengths.sum()}"
            )
    padding = 1 + max(int(part["x"].max()) for part in parts)
    longest = max(int(part["lengths"].max()) for part in parts)
    for part in parts:
        lengths = part.pop("lengths")
        padded = np.full((len(lengths), longest), padding, dtype=np.int64)
        padded[np.arange(longest) < lengths[:, None]] = part["x"]
        part["x"] = padded
    return padding


def _check_lengths(path: Path, part: Columns) -> None:
    lengths = {name: len(array) if array.ndim else -1 for name, array in part.items()}
    if len(set(lengths.values())) > 1 or min(lengths.values()) < 1:
        raise ConfigError(f"data.root={path}: arrays have {lengths} samples; all need as many, at least one")


def _inputs(x: NDArray[Any], path: Path) -> Tensor:
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        images = torch.from_numpy(x[:, None] if x.ndim == 3 else x)
        check_order(images, f"data.root={path}: the images")
        return images
    return _numbers("x", x, path)


def _numbers(name: str, array: NDArray[Any], path: Path) -> Tensor:
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind != "f":
        raise ConfigError(f"data.root={path}: {name} is {array.dtype}; numbers are possible")
    return torch.from_numpy(finite(f"data.root={path}: {name}", array))


def _mappings(config: DataConfig, parts: list[Columns], clients: list[Any], path: Path) -> LabelledData:
    """Batches {name: [batch, ...]} of every array, with the targets as `y`."""
    for option in ("image_size", "channels", "flip", "rotation", "crop_padding"):
        if getattr(config, option):
            raise ConfigError(f"data.{option} needs pairs of images x and y; {path} holds {', '.join(parts[0])}")
    refuse_scaling(config.name, config.normalise)
    targets, names = targets_of(config, [part["y"] for part in parts])
    splits = []
    for part, target in zip(parts, targets, strict=True):
        sample = {name: target if name == "y" else _numbers(name, array, path) for name, array in sorted(part.items())}
        columns, structure = pytree.tree_flatten(sample)
        splits.append(Stacked(tuple(columns), structure, target))
    for name, one, other in zip(sorted(parts[0]), *(split.columns for split in splits), strict=True):
        if one.shape[1:] != other.shape[1:] or one.dtype != other.dtype:
            raise ConfigError(f"data.root={path}: {name} has other shapes or types in training than in test")
    return LabelledData(config.name, splits[0], splits[1], tuple(names), owners_of(clients))
