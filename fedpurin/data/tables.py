"""data=table: the user's own tables in CSV or parquet files.

Owns: which columns are expected, codes of categories and the standardisation of columns. Does not own: the split and the
targets (assemble.py), arrays (arrays.py).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedpurin.config import ConfigError, DataConfig
from fedpurin.data.assemble import Columns, assemble, hold_out, root_of
from fedpurin.data.dataset import LabelledData


def read_table(config: DataConfig, seed: int) -> LabelledData:
    """`data.root`: a CSV or parquet file, or a folder with train and test files; `data.label` names the column of targets.

    Numeric columns are standardised by the training rows; any other column becomes one 0/1 input a category.

    Raises:
        ConfigError: a missing file, package or column, an empty cell, or nothing but the label.
    """
    path = root_of(config, "a .csv or .parquet file, or a folder with train and test files")
    if path.is_dir():
        files = [next(iter(sorted(path.glob(f"{split}.*"))), None) for split in ("train", "test")]
        if None in files:
            raise ConfigError(f"data.root={path}: it needs train.csv and test.csv (or .parquet)")
        tables = [_read_table(file, config) for file in files if file is not None]
        if list(tables[0]) != list(tables[1]):
            raise ConfigError(f"data.root={path}: train and test have different columns")
    else:
        whole = _read_table(path, config)
        held_out = hold_out(config, whole[config.label], whole.get(config.client or ""), seed)
        tables = [{name: column[rows] for name, column in whole.items()} for rows in (~held_out, held_out)]
    features = [name for name in tables[0] if name not in (config.label, config.client)]
    if not features:
        raise ConfigError(f"data.root={path} has no column beside data.label={config.label}")
    coding = tuple(_coding(name, tables[0][name], tables[1][name]) for name in features)
    blocks = [[_code(how, table[name]) for how, name in zip(coding, features, strict=True)] for table in tables]
    inputs = [torch.from_numpy(np.concatenate(block, axis=1)).float() for block in blocks]
    clients = [table.get(config.client or "") for table in tables]
    return replace(assemble(config, inputs, [table[config.label] for table in tables], clients), coding=coding)


def _read_table(path: Path, config: DataConfig) -> Columns:
    """Columns in file order: numbers as float64, anything else as text."""
    if path.suffix == ".parquet":
        texts = _read_parquet(path)
    else:
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                header, *rows = [row for row in csv.reader(file) if row]
        except (OSError, ValueError) as error:
            raise ConfigError(f"data.root={path} cannot be read as a table ({error})") from None
        if odd := [number for number, row in enumerate(rows, 2) if len(row) != len(header)]:
            raise ConfigError(f"data.root={path}: line {odd[0]} has another number of cells than the header")
        _check_names(path, header)
        texts = {name: [row[column].strip() for row in rows] for column, name in enumerate(header)}
    for option, name in (("label", config.label), ("client", config.client)):
        if name is not None and name not in texts:
            raise ConfigError(f"data.{option}={name}: {path} has no such column; it has {', '.join(texts)}")
    for name, cells in texts.items():
        if "" in cells:
            raise ConfigError(f"data.root={path}: column {name} is empty in row {cells.index('') + 1}; fill or drop it")
    return {name: np.array(cells) for name, cells in texts.items()}


def _read_parquet(path: Path) -> dict[str, list[str]]:
    try:
        from pyarrow import parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise ConfigError(
            f"data.root={path}: parquet files need the package pyarrow: pip install 'fedpurin[parquet]'; or give a .csv"
        ) from None
    try:
        read = parquet.read_table(path)
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own exceptions are of these kinds
        raise ConfigError(f"data.root={path} cannot be read as a table ({error})") from None
    _check_names(path, read.column_names)
    return {name: ["" if v is None else str(v) for v in read[name].to_pylist()] for name in read.column_names}


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse columns that would hide one another, and those without a name: an index that was saved along, mostly."""
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise ConfigError(f"data.root={path}: column {number} has no name; name it, or leave it out (an index?)")
        if names.index(name) < number - 1:
            raise ConfigError(f"data.root={path}: two columns are called {name}; each needs a name of its own")


def _coding(name: str, train: NDArray[Any], test: NDArray[Any]) -> dict[str, Any]:
    """How a column becomes inputs: standardised by the training rows, or a 0/1 for each category of either split."""
    try:
        numbers, others = (column.astype(np.float64) for column in (train, test))
    except ValueError:
        return {"column": name, "categories": np.unique(np.concatenate([train, test])).tolist()}
    if not (np.isfinite(numbers).all() and np.isfinite(others).all()):
        raise ConfigError(f"data.root: column {name} holds numbers that are not finite")
    return {"column": name, "mean": float(numbers.mean()), "std": float(numbers.std()) or 1.0}


def _code(coding: Mapping[str, Any], column: NDArray[Any]) -> NDArray[np.float64]:
    """A column as inputs [n, k]."""
    if "categories" in coding:
        flags: NDArray[np.float64] = (column[:, None] == np.array(coding["categories"])).astype(np.float64)
        return flags
    numbers: NDArray[np.float64] = (column.astype(np.float64)[:, None] - coding["mean"]) / coding["std"]
    return numbers
