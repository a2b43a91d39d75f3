"""From any torch data set to what a run holds: every sample is read once, now.

Owns: which samples are taken, how their parts become tensors, where their class is, and the lines that say what does not
fit. Does not own: batches (pool.py, samples.py), files (sources.py).

A data set of (x, y) with one tensor x becomes a `Pool`; samples of any other structure (mappings, several inputs) become
`Stacked`, whose batches have that structure; with a collate function any samples at all become `Collated`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import TensorDataset

from fedpurin.config import ConfigError
from fedpurin.data.dataset import LabelledData, labelled_data, refuse_scaling
from fedpurin.data.images import check_order
from fedpurin.data.samples import Collate, Collated, Samples, Stacked

LABEL_KEYS = ("label", "labels", "y", "target", "targets")
"""Where the class is in samples that are mappings, unless `data.label` names another key."""
_TO_COLLATE = "make them alike, or pass a function that batches a list of them (simulate's collate)"


def from_datasets(
    train: Any,
    test: Any,
    *,
    name: str = "custom",
    class_names: Sequence[str] | None = None,
    collate: Collate | None = None,
    label: str | None = None,
    **options: Any,
) -> LabelledData:
    """Read two torch data sets. A random transform inside a data set is thus drawn once.

    Of (x, y) pairs, x is a tensor, an array or a PIL image, the same shape throughout: uint8 samples are images [C, H, W] or
    [H, W] and are normalised; floating samples of any shape, and other integers (tokens), are used as they are. y is a class
    number, from 0, or any other target: a floating number, a tensor. Of any other structure every part is used as it is, and
    floating numbers become float32.

    Args:
        collate: makes a batch of a list of samples, which may then be anything.
        label: key of the class in samples that are mappings; by default one of LABEL_KEYS. In others it is the last part.
        options: those of `labelled_data`.

    Raises:
        ConfigError: an empty data set, samples that differ and no `collate`, options for images without images.
    """
    parts = [_read(dataset, split, collate, label) for split, dataset in (("training", train), ("test", test))]
    kinds = [isinstance(part, Samples) for part in parts]
    if any(kinds):
        if not all(kinds) or parts[0].dtype_name != parts[1].dtype_name:
            raise ConfigError("the training and the test data set have samples of different structure; they must agree")
        _refuse_image_options(options)
        refuse_scaling(name, options.get("normalise", "none"))
    labels = [part.labels if isinstance(part, Samples) else part[1] for part in parts]
    if class_names is None:
        class_names = _name_classes(labels)
    if any(kinds):
        return LabelledData(name, parts[0], parts[1], tuple(class_names))
    return labelled_data(name, parts[0], parts[1], class_names, **options)


def _name_classes(labels: Sequence[Tensor | None]) -> list[str]:
    """Numbers as names where labels are classes; nothing where they are not."""
    present = [part for part in labels if part is not None and part.dim() == 1 and part.dtype == torch.int64]
    if len(present) < len(labels):
        return []
    highest = max(int(part.max()) for part in present)
    _check_dense(present, highest)
    return [str(number) for number in range(highest + 1)]


def _check_dense(labels: Sequence[Tensor], highest: int) -> None:
    """Ids such as 3, 70 and 500 would make a head of 501 outputs; a class or two without samples is only told."""
    present = torch.unique(torch.cat(list(labels))).tolist()
    if present[0] < 0 or len(present) == highest + 1:
        return
    first = ", ".join(map(str, present[:5])) + (", …" if len(present) > 5 else "")
    if 2 * len(present) < highest + 1:
        raise ConfigError(
            f"the labels are {len(present)} different numbers up to {highest} ({first}); number the classes from 0 to "
            f"{len(present) - 1}, or give numbers that are no classes as floating targets"
        )
    warnings.warn(f"{highest + 1 - len(present)} of the classes 0 to {highest} have no sample ({first})", stacklevel=4)


def _read(dataset: Any, split: str, collate: Collate | None, label: str | None) -> Any:
    """A pair of tensors (inputs, targets), or `Samples` of another structure."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ConfigError(
            f"the {split} data set is a {type(dataset).__name__}; it needs a length and samples by number"
        )
    if len(dataset) == 0:
        raise ConfigError(f"the {split} data set is empty; it needs at least one sample")
    if collate is not None:
        samples = [_item(dataset, split, index) for index in range(len(dataset))]
        return Collated(samples, collate, _labels(samples, label))
    if isinstance(dataset, TensorDataset):  # no loop over samples that are tensors already
        if len(dataset.tensors) == 2:
            return _pair(*dataset.tensors, split)
        tensors = tuple(_convert(tensor) for tensor in dataset.tensors)
        return Stacked(tensors, pytree.tree_structure(tensors), _as_classes(tensors[-1]))
    samples = [_parts(_item(dataset, split, index), split, index, is_sample=True) for index in range(len(dataset))]
    flat = [pytree.tree_flatten(sample) for sample in samples]
    structure = flat[0][1]
    for index, (_, other) in enumerate(flat):
        if other != structure:
            raise ConfigError(f"sample {index} of the {split} data set has other parts than sample 0; {_TO_COLLATE}")
    columns = []
    for place, path in enumerate(_paths(samples[0])):
        parts = [leaves[place] for leaves, _ in flat]
        shapes = {(tuple(part.shape), part.dtype) for part in parts}
        if len(shapes) > 1:
            some = ", ".join(f"{list(shape)} {dtype}" for shape, dtype in sorted(shapes, key=str)[:3])
            raise ConfigError(f"the {split} data set's samples differ{path} ({some}); {_TO_COLLATE}")
        columns.append(torch.stack(parts))
    if isinstance(samples[0], tuple | list) and len(samples[0]) == 2 and len(columns) == 2:
        return _pair(columns[0], columns[1], split)
    return Stacked(tuple(columns), structure, _stacked_labels(pytree.tree_unflatten(columns, structure), label))


def _item(dataset: Any, split: str, index: int) -> Any:
    try:
        return dataset[index]
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigError(f"sample {index} of the {split} data set cannot be read: {what}") from error


def _parts(value: Any, split: str, index: int, *, is_sample: bool = False) -> Any:
    """The sample with every part a tensor; tuples, mappings and lists of them stay what they are."""
    if isinstance(value, Tensor):
        return _convert(value)
    if hasattr(value, "getbands"):  # a PIL image, without importing PIL for those who have none
        array = np.array(value)
        return torch.from_numpy(array if array.ndim == 2 else array.transpose(2, 0, 1).copy())
    if isinstance(value, Mapping):
        return {key: _parts(part, split, index) for key, part in value.items()}
    if isinstance(value, tuple | list) and (is_sample or not _is_numeric(value)):
        parts = [_parts(part, split, index) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    try:
        return _convert(torch.as_tensor(value))
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"sample {index} of the {split} data set holds a {type(value).__name__}, which is no tensor, array, image or "
            "number; encode it, or pass a function that batches a list of samples (simulate's collate)"
        ) from None


def _is_numeric(value: Sequence[Any]) -> bool:
    """Plain numbers, at any depth, are an array; anything else is a structure."""
    return bool(value) and all(
        isinstance(part, int | float) or (isinstance(part, tuple | list) and _is_numeric(part)) for part in value
    )


def _convert(part: Tensor) -> Tensor:
    """float32 and int64, the types that clients compute in; bytes and truth values stay."""
    part = part.detach()
    if part.is_floating_point():
        return part.float()
    return part if part.dtype in (torch.uint8, torch.bool) or part.is_complex() else part.to(torch.int64)


def _pair(inputs: Tensor, targets: Tensor, split: str) -> tuple[Tensor, Tensor]:
    inputs, targets = _convert(inputs), _convert(targets)
    if targets.dim() == 1 and not targets.is_floating_point():
        targets = targets.to(torch.int64)
    if inputs.dtype == torch.uint8:
        inputs = inputs.unsqueeze(1) if inputs.dim() == 3 else inputs
        if inputs.dim() != 4:
            raise ConfigError(
                f"the {split} samples are {list(inputs.shape[1:])} uint8, which stands for images [C, H, W]; "
                "convert other samples to float32"
            )
        check_order(inputs, f"the {split} samples")
    elif inputs.is_complex():
        raise ConfigError(f"the {split} samples are {inputs.dtype}; integers or a floating type are possible")
    elif inputs.is_floating_point() and not (whole := inputs.flatten(1).isfinite().all(1)).all():
        bad = (~whole).nonzero().flatten()
        warnings.warn(
            f"{len(bad)} of the {split} samples, the first of them {int(bad[0])}, are not finite (NaN or infinite): their "
            "clients diverge unless the module handles them",
            stacklevel=4,
        )
    return inputs.to(torch.int64) if inputs.dtype == torch.bool else inputs, targets


def _paths(sample: Any) -> list[str]:
    """Where each part is, for a message: ` at ['tokens']`; of a pair there is nothing to say."""
    if isinstance(sample, tuple | list) and len(sample) == 2 and all(isinstance(part, Tensor) for part in sample):
        return ["", " in their targets"]
    return [f" at {pytree.keystr(path)}" for path, _ in pytree.tree_flatten_with_path(sample)[0]]


def _label_of(sample: Any, label: str | None) -> Any:
    """The part of a sample (or of all of them) that is its class or target; None where that cannot be told."""
    if isinstance(sample, Mapping):
        keys = [key for key in (label, *LABEL_KEYS) if key in sample]
        return sample[keys[0]] if keys else None
    return sample[-1] if isinstance(sample, tuple | list) and len(sample) > 1 else None


def _as_classes(column: Any) -> Tensor | None:
    """Whole numbers [n] are classes; other targets are the module's own business."""
    is_classes = isinstance(column, Tensor) and column.dim() == 1 and not column.is_floating_point()
    return column.to(torch.int64) if is_classes and int(column.min()) >= 0 else None


def _stacked_labels(columns: Any, label: str | None) -> Tensor | None:
    return _as_classes(_label_of(columns, label))


def _labels(samples: Sequence[Any], label: str | None) -> Tensor | None:
    """The classes of samples that only their collate function understands, where they are plain numbers."""
    found = [_label_of(sample, label) for sample in samples]
    try:
        return _as_classes(torch.stack([torch.as_tensor(value) for value in found]))
    except (TypeError, ValueError, RuntimeError):
        return None


def _refuse_image_options(options: Mapping[str, Any]) -> None:
    for option in ("flip", "rotation", "crop_padding"):
        if options.get(option):
            raise ConfigError(f"data.{option}={options[option]} needs (x, y) pairs with images x [C, H, W]")
