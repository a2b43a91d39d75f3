"""data=huggingface: a folder that the package datasets saved, or a name on its hub, and the tokenizer saved beside it.

    one column beside data.label (and data.client)   pairs: images, text as tokens, numbers or sequences of them
    several                                          mappings of all of them by name, the label under its own

Owns: opening the data set, and its columns as arrays. Does not own: the split and the targets (assemble.py). Both packages are
optional (`fedpurin[huggingface]`) and imported where used.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fedpurin.config import ConfigError, DataConfig
from fedpurin.data.assemble import assemble, finite, hold_out, owners_of, targets_of
from fedpurin.data.dataset import LabelledData, refuse_scaling
from fedpurin.data.images import to_square, with_channels
from fedpurin.data.samples import Stacked

TOKENIZER = "tokenizer.json"
PADDING = ("[PAD]", "<pad>", "<|pad|>")
"""Tokens that fill sequences up, where the tokenizer does not say which of its tokens does."""


@dataclass(frozen=True)
class Column:
    """One feature of both splits: tensors [n, ...], and for text the number of tokens and the one that fills up."""

    parts: tuple[Tensor, Tensor]
    padding: int | None = None
    num_tokens: int | None = None


def read_hugging_face(config: DataConfig, seed: int) -> LabelledData:
    """`data.root`: a folder that `save_to_disk` made, or a data set of the hub, with a split train and one of test.

    Raises:
        ConfigError: the package or the data set is not there, or a column that cannot become numbers.
    """
    splits, folder = _splits(config)
    if config.label not in splits[0].column_names:
        raise ConfigError(f"data.label={config.label}: there is no such column; there are {_names(splits[0])}")
    if config.client is not None and config.client not in splits[0].column_names:
        raise ConfigError(f"data.client={config.client}: there is no such column; there are {_names(splits[0])}")
    if len(splits) > 1 and set(splits[0].column_names) != set(splits[1].column_names):
        raise ConfigError(f"data.root={config.root}: train has {_names(splits[0])}, and test has {_names(splits[1])}")
    targets, clients = (
        [_array(split, config.label) for split in splits],
        [_array(split, config.client) for split in splits],
    )
    features = [name for name in splits[0].column_names if name not in (config.label, config.client)]
    if len(splits) == 1:
        held_out = hold_out(config, targets[0], clients[0], seed)
        rows = [np.flatnonzero(~held_out), np.flatnonzero(held_out)]
        splits = [splits[0].select(part) for part in rows]
        targets, clients = (
            [targets[0][part] for part in rows],
            [None if c is None else c[part] for c in clients for part in rows],
        )
    if not features:
        raise ConfigError(f"data.root={config.root} has no column beside data.label={config.label}")
    columns = {name: _column(config, name, splits, folder) for name in features}
    if len(features) == 1:
        only = columns[features[0]]
        data = assemble(config, only.parts, targets, clients, only.padding, only.num_tokens)
    else:
        data = _mappings(config, columns, targets, clients)
    return data if config.target == "numbers" else _with_names(data, splits[0].features[config.label], config.label)


def _splits(config: DataConfig) -> tuple[list[Any], Path]:
    """The training and the test split, or the only one there is, and the folder."""
    try:
        import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise ConfigError("data=huggingface needs the package datasets: pip install 'fedpurin[huggingface]'") from None
    if config.root is None:
        raise ConfigError(
            "data.root=null: data=huggingface needs a folder that save_to_disk made, or a name on the hub"
        )
    datasets.disable_progress_bars()
    folder = Path(config.root).expanduser()
    try:
        if folder.is_dir():
            found = datasets.load_from_disk(str(folder))
        elif not config.download:
            raise ConfigError(f"data.root={config.root}: there is no such folder, and data.download=false asks no hub")
        else:
            _expect_no_answer_of_a_hub_out_of_reach()
            found = datasets.load_dataset(config.root)
    except ConfigError:
        raise
    except Exception as error:  # of the hub, of its cache, of the network, of files
        what = " ".join(str(error).split())[:160]
        advice = (
            "give the folder that save_to_disk made"
            if folder.is_dir()
            else f"with a network, datasets.load_dataset({config.root!r}).save_to_disk(FOLDER); then data.root=FOLDER"
        )
        raise ConfigError(
            f"data.root={config.root} cannot be loaded ({type(error).__name__}: {what}); {advice}"
        ) from None
    if not isinstance(found, dict):
        return [found], folder
    if "train" not in found:
        raise ConfigError(
            f"data.root={config.root} has the splits {', '.join(found)}; it needs train, and test if it has one"
        )
    return [found[name] for name in ("train", "test") if name in found], folder


def _expect_no_answer_of_a_hub_out_of_reach() -> None:
    """Without a network a data set is taken from its cache or refused at once, instead of after a minute of retries."""
    import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import huggingface_hub  # type: ignore[import-not-found,import-untyped,unused-ignore]

    try:
        urlopen(Request(huggingface_hub.constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except HTTPError:
        return  # it answers
    except OSError as error:
        if not isinstance(getattr(error, "reason", None), ssl.SSLError):  # a certificate that only others know
            huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def _names(split: Any) -> str:
    return ", ".join(split.column_names)


def _array(split: Any, name: str | None) -> Any:
    """A column of single values."""
    return None if name is None else np.array(list(split[name]))


def _column(config: DataConfig, name: str, splits: Sequence[Any], folder: Path) -> Column:
    """One feature as tensors of one shape over both splits.

    Raises:
        ConfigError: it holds what is no image, text or number, or numbers of unequal length.
    """
    first = splits[0][0][name]
    if hasattr(first, "getbands"):
        return _images(config, name, splits)
    values = [list(split[name]) for split in splits]
    padding = num_tokens = None
    if isinstance(first, str):
        values, padding, num_tokens = _tokenise(config, name, values, folder)
    try:
        lengths = {len(value) for part in values for value in part if isinstance(value, list)}
        if len(lengths) > 1:
            values, padding = _fill_up(values, padding)
        arrays = [np.asarray(part) for part in values]
    except (TypeError, ValueError):
        arrays = [np.array([None])]
    kinds = {array.dtype.kind for array in arrays}
    if not kinds <= set("iubf"):
        raise ConfigError(
            f"data.root={config.root}: column {name} holds no images, text or numbers of one shape; remove it"
        )
    what = f"data.root={config.root}: column {name}"
    train, test = (torch.from_numpy(finite(what, a) if "f" in kinds else a.astype(np.int64)) for a in arrays)
    return Column((train, test), padding, num_tokens)


def _images(config: DataConfig, name: str, splits: Sequence[Any]) -> Column:
    """uint8 [n, C, H, W]; without `data.image_size` all have to be of one size."""
    parts = []
    for split in splits:
        images = []
        for image in split[name]:
            pixels = np.atleast_3d(np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB")))
            tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
            tensor = with_channels(tensor, config.channels) if config.channels else tensor
            images.append(to_square(tensor, config.image_size) if config.image_size else tensor)
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            some = ", ".join(str(list(shape)) for shape in sorted(shapes)[:3])
            raise ConfigError(
                f"data.root={config.root}: images of {name} have different shapes ({some}); "
                "set data.image_size, and data.channels where grey and colour are mixed"
            )
        parts.append(torch.stack(images))
    return Column((parts[0], parts[1]))


def _tokenise(config: DataConfig, name: str, texts: list[list[str]], folder: Path) -> tuple[list[Any], int, int]:
    """Numbers of tokens for each text, the token that fills up, and how many tokens there are."""
    path = folder / TOKENIZER
    if not path.is_file():
        raise ConfigError(
            f"data.root={config.root}: column {name} is text, and there is no {TOKENIZER} beside it; save one there "
            "(tokenizer.save_pretrained or Tokenizer.save), or tokenise the data set before it is saved"
        )
    try:
        import tokenizers  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise ConfigError("text needs the package tokenizers: pip install 'fedpurin[huggingface]'") from None
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises plain Exceptions
        raise ConfigError(f"{path} is no tokenizer ({' '.join(str(error).split())[:160]})") from None
    padding = (tokenizer.padding or {}).get("pad_id")
    known = [number for token in PADDING if (number := tokenizer.token_to_id(token)) is not None]
    size = tokenizer.get_vocab_size()
    padding = padding if padding is not None else (known[0] if known else size)
    tokenizer.no_padding()
    values = [[encoding.ids or [padding] for encoding in tokenizer.encode_batch(part)] for part in texts]
    return values, padding, max(size, padding + 1)


def _fill_up(values: list[Any], padding: int | None) -> tuple[list[Any], int]:
    """Whole numbers of unequal length, filled up at the end: by a token of their own where none is known."""
    flat = [number for part in values for value in part for number in value]
    if not all(isinstance(number, int) for number in flat):
        raise ValueError("numbers of unequal length")
    padding = 1 + max(flat) if padding is None else padding
    longest = max(len(value) for part in values for value in part)
    return [[value + [padding] * (longest - len(value)) for value in part] for part in values], padding


def _mappings(
    config: DataConfig, columns: dict[str, Column], targets: Sequence[Any], clients: Sequence[Any]
) -> LabelledData:
    for option in ("flip", "rotation", "crop_padding"):
        if getattr(config, option):
            raise ConfigError(f"data.{option} needs images and labels alone; there are {', '.join(columns)} as well")
    refuse_scaling(config.name, config.normalise)
    labels, names = targets_of(config, targets)
    splits = []
    for place, target in enumerate(labels):
        sample = {name: column.parts[place] for name, column in columns.items()} | {config.label: target}
        tensors, structure = pytree.tree_flatten(sample)
        splits.append(Stacked(tuple(tensors), structure, target))
    paddings = [column.padding for column in columns.values() if column.padding is not None]
    return LabelledData(
        config.name, splits[0], splits[1], tuple(names), owners_of(clients), paddings[0] if paddings else None
    )


def _with_names(data: LabelledData, feature: Any, label: str) -> LabelledData:
    """Classes by their names, where the data set has them.

    Raises:
        ConfigError: a number that has no name: -1 stands for "not labelled" in published test splits.
    """
    names = getattr(feature, "names", None)
    if not names:
        return data
    if nameless := [number for number in data.class_names if not 0 <= int(number) < len(names)]:
        raise ConfigError(
            f"data.label={label}: {nameless[0]} is none of its {len(names)} classes; is the split labelled?"
        )
    return replace(data, class_names=tuple(names[int(number)] for number in data.class_names))
