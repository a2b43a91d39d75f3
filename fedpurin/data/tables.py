"""The user's own numbers: arrays in .npz, .npy or .safetensors files, and tables in CSV or parquet.

Owns: which names and columns are expected, the split where there is no test set, codes of categories and the
standardisation of columns. Does not own: images (sources.py, folder.py) and whose a sample is (natural.py).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.config import ConfigError, DataConfig
from fedpurin.data.dataset import LabelledData, labelled_data
from fedpurin.seeding import numpy_generator

Columns = dict[str, NDArray[Any]]
_ARRAY_LAYOUT = (
    "x, y and optionally client; or x_train, y_train, x_test, y_test and optionally client_train, client_test"
)


def read_arrays(config: DataConfig, seed: int) -> LabelledData:
    """`data.root`: a .npz or .safetensors file, or a folder of .npy files, that holds x, y and optionally client.

    Raises:
        ConfigError: a missing file or array, or arrays that do not fit together.
    """
    path = _root(config, "a .npz or .safetensors file or a folder of .npy files")
    try:
        if path.is_dir():
            arrays = {file.stem: np.load(file, allow_pickle=False) for file in sorted(path.glob("*.npy"))}
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        elif path.suffix == ".safetensors":
            arrays = _read_safetensors(path)
        else:
            raise ConfigError(f"data.root={path}: data=arrays reads .npz, .safetensors, or a folder of .npy files")
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"data.root={path} cannot be read as arrays ({error})") from None
    if {"x_train", "y_train", "x_test", "y_test"} <= set(arrays):
        parts = [{key: arrays.get(f"{key}_{split}") for key in ("x", "y", "client")} for split in ("train", "test")]
    elif {"x", "y"} <= set(arrays):
        whole = {key: arrays.get(key) for key in ("x", "y", "client")}
        _check_lengths(path, whole)
        held_out = _hold_out(whole["y"], whole["client"], config.test_share, seed)
        parts = [{k: None if v is None else v[rows] for k, v in whole.items()} for rows in (~held_out, held_out)]
    else:
        raise ConfigError(f"data.root={path} holds {', '.join(arrays) or 'no array'}; it needs {_ARRAY_LAYOUT}")
    for part in parts:
        _check_lengths(path, part)
    inputs = [_inputs(part["x"], path) for part in parts]
    return _assemble(config, inputs, [part["y"] for part in parts], [part["client"] for part in parts])


def read_table(config: DataConfig, seed: int) -> LabelledData:
    """`data.root`: a CSV or parquet file, or a folder with train and test files; `data.label` names the classes.

    Numeric columns are standardised by the training rows; any other column becomes one 0/1 input a category.

    Raises:
        ConfigError: a missing file, package or column, an empty cell, or nothing but the label.
    """
    path = _root(config, "a .csv or .parquet file, or a folder with train and test files")
    if path.is_dir():
        files = [next(iter(sorted(path.glob(f"{split}.*"))), None) for split in ("train", "test")]
        if None in files:
            raise ConfigError(f"data.root={path}: it needs train.csv and test.csv (or .parquet)")
        tables = [_read_table(file, config) for file in files if file is not None]
        if list(tables[0]) != list(tables[1]):
            raise ConfigError(f"data.root={path}: train and test have different columns")
    else:
        whole = _read_table(path, config)
        held_out = _hold_out(whole[config.label], whole.get(config.client or ""), config.test_share, seed)
        tables = [{name: column[rows] for name, column in whole.items()} for rows in (~held_out, held_out)]
    features = [name for name in tables[0] if name not in (config.label, config.client)]
    if not features:
        raise ConfigError(f"data.root={path} has no column beside data.label={config.label}")
    blocks = [_code(name, tables[0][name], tables[1][name]) for name in features]
    inputs = [torch.from_numpy(np.concatenate([block[split] for block in blocks], axis=1)).float() for split in (0, 1)]
    clients = [table.get(config.client or "") for table in tables]
    return _assemble(config, inputs, [table[config.label] for table in tables], clients)


def _root(config: DataConfig, wanted: str) -> Path:
    if config.root is None:
        raise ConfigError(f"data.root=null: data={config.name} needs {wanted}")
    path = Path(config.root).expanduser()
    if not path.exists():
        raise ConfigError(f"data.root={config.root}: there is no such file or folder; give {wanted}")
    return path


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


def _read_table(path: Path, config: DataConfig) -> Columns:
    """Columns in file order: numbers as float64, anything else as text."""
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError:
            raise ConfigError(f"data.root={path}: parquet files need the package pyarrow; or give a .csv") from None
        read = parquet.read_table(path)
        texts = {name: ["" if v is None else str(v) for v in read[name].to_pylist()] for name in read.column_names}
    else:
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                header, *rows = [row for row in csv.reader(file) if row]
        except (OSError, ValueError) as error:
            raise ConfigError(f"data.root={path} cannot be read as a table ({error})") from None
        if odd := [number for number, row in enumerate(rows, 2) if len(row) != len(header)]:
            raise ConfigError(f"data.root={path}: line {odd[0]} has another number of cells than the header")
        texts = {name: [row[column].strip() for row in rows] for column, name in enumerate(header)}
    for option, name in (("label", config.label), ("client", config.client)):
        if name is not None and name not in texts:
            raise ConfigError(f"data.{option}={name}: {path} has no such column; it has {', '.join(texts)}")
    for name, cells in texts.items():
        if "" in cells:
            raise ConfigError(f"data.root={path}: column {name} is empty in row {cells.index('') + 1}; fill or drop it")
    return {name: np.array(cells) for name, cells in texts.items()}


def _code(name: str, train: NDArray[Any], test: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """A column as inputs [n, k] of both splits: one standardised number, or a 0/1 for each category."""
    try:
        numbers = [column.astype(np.float64)[:, None] for column in (train, test)]
    except ValueError:
        categories = np.unique(np.concatenate([train, test]))
        return tuple((column[:, None] == categories).astype(np.float64) for column in (train, test))
    if not all(np.isfinite(column).all() for column in numbers):
        raise ConfigError(f"data.root: column {name} holds numbers that are not finite")
    mean, deviation = numbers[0].mean(), numbers[0].std() or 1.0
    return (numbers[0] - mean) / deviation, (numbers[1] - mean) / deviation


def _hold_out(labels: Any, clients: Any, share: float, seed: int) -> NDArray[np.bool_]:
    """A test sample or more of each client, or of each class where samples belong to nobody."""
    groups = np.unique(np.asarray(labels if clients is None else clients), return_inverse=True)[1]
    generator = numpy_generator(seed, "data/split")
    held_out = np.zeros(len(groups), dtype=bool)
    for group in range(groups.max(initial=-1) + 1):
        members = generator.permutation(np.flatnonzero(groups == group))
        held_out[members[: max(1, round(share * len(members))) if len(members) > 1 else 0]] = True
    return held_out


def _check_lengths(path: Path, part: dict[str, Any]) -> None:
    lengths = {key: len(value) if value.ndim else -1 for key, value in part.items() if value is not None}
    if len(set(lengths.values())) > 1 or min(lengths.values()) < 1 or part["y"].ndim != 1:
        raise ConfigError(f"data.root={path}: arrays have {lengths} samples; all need as many, y one number each")


def _inputs(x: Any, path: Path) -> Tensor:
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        return torch.from_numpy(x[:, None] if x.ndim == 3 else x)
    if x.dtype.kind in "iub":
        return torch.from_numpy(x.astype(np.int64))
    if x.dtype.kind != "f":
        raise ConfigError(f"data.root={path}: x is {x.dtype}; numbers are possible")
    return torch.from_numpy(x.astype(np.float32))


def _assemble(config: DataConfig, inputs: list[Tensor], labels: list[Any], clients: list[Any]) -> LabelledData:
    """Any labels become classes, in sorted order."""
    if any(column.dtype.kind == "f" and (column != column.round()).any() for column in labels):
        raise ConfigError(f"data={config.name}: labels are fractions; they must be classes")
    joined = np.concatenate([column.astype(np.int64) if column.dtype.kind == "f" else column for column in labels])
    names, codes = np.unique(joined, return_inverse=True)
    train, test = (torch.from_numpy(part) for part in np.split(codes, [len(labels[0])]))
    return labelled_data(
        config.name, (inputs[0], train), (inputs[1], test), [str(name) for name in names],
        normalise=config.normalise, flip=config.flip, rotation=config.rotation, crop_padding=config.crop_padding,
        clients=None if clients[0] is None or clients[1] is None else (clients[0].astype(str), clients[1].astype(str)),
    )  # fmt: skip
