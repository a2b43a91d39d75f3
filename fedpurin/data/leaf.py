"""data=leaf: the JSON files that LEAF writes (Caldas et al., 2018, arXiv 1812.01097), a client a user:

    {"users": ["ham", …], "num_samples": [2, …], "user_data": {"ham": {"x": […], "y": […]}, …}}

    x a text, y one character      the next character (Shakespeare): characters are tokens
    x a text, y a class            words are tokens; of a tweet's fields (Sentiment140) the text is the fifth
    x numbers                      vectors (Synthetic); images by data.image_size (FEMNIST)

Owns: these files, and text as tokens. Does not own: the split and the targets (assemble.py), clients (natural.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedpurin.config import ConfigError, DataConfig
from fedpurin.data.assemble import assemble, finite, hold_out, root_of
from fedpurin.data.dataset import LabelledData

MAX_WORDS = 10_000
"""Words that get a token of their own, the most frequent of the training texts; all others share one."""
_TWEET_TEXT = 4
_WORD = re.compile(r"\w+|[^\w\s]")

Rows = tuple[list[Any], list[Any], list[str]]
"""x, y and user of every sample."""


def read_leaf(config: DataConfig, seed: int) -> LabelledData:
    """`data.root`: a .json file, a folder of them, or one with folders train/ and test/ of them.

    Raises:
        ConfigError: a missing or damaged file, or samples that are neither text nor numbers of one shape.
    """
    path = root_of(config, "a .json file of LEAF, a folder of them, or one with train/ and test/")
    if path.is_dir() and (path / "train").is_dir():
        parts = [_read(path / split) for split in ("train", "test")]
    else:
        x, y, users = _read(path)
        held_out = hold_out(config, np.array(y), np.array(users), seed)
        parts = [_take((x, y, users), np.flatnonzero(rows)) for rows in (~held_out, held_out)]
    targets, clients = [np.array(part[1]) for part in parts], [np.array(part[2]) for part in parts]
    texts = [[_text(sample) for sample in part[0]] for part in parts]
    if not any(isinstance(text, str) for text in texts[0]):
        inputs = [_numbers(config, part[0], path) for part in parts]
        return assemble(replace(config, image_size=None, channels=None), inputs, targets, clients)
    if not all(isinstance(text, str) for part in texts for text in part):
        raise ConfigError(f"data.root={path}: some x are texts and some are not")
    by_character = all(isinstance(label, str) and len(label) == 1 for part in parts for label in part[1])
    tokens, num_tokens = _tokens(texts, list if by_character else _words)
    return assemble(config, tokens, targets, clients, padding=num_tokens - 1, num_tokens=num_tokens)


def _read(path: Path) -> Rows:
    """All samples of a file, or of a folder's files by their names, user by user."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    x: list[Any] = []
    y: list[Any] = []
    users: list[str] = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            for user, count in zip(content["users"], content["num_samples"], strict=True):
                samples = content["user_data"][user]
                if not len(samples["x"]) == len(samples["y"]) == count:
                    raise ValueError(f"{user} has {len(samples['x'])} x, {len(samples['y'])} y and num_samples {count}")
                x += samples["x"]
                y += samples["y"]
                users += [user] * count
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"data.root: {file} is no file of LEAF ({type(error).__name__}: {error}); it needs users, num_samples, and "
                "user_data with x and y a user"
            ) from None
    if not y:
        raise ConfigError(f"data.root: no sample in {path}; data=leaf reads the .json files that LEAF writes")
    return x, y, users


def _take(rows: Rows, chosen: Sequence[int] | Any) -> Rows:
    x, y, users = ([column[row] for row in chosen] for column in rows)
    return x, y, users


def _text(sample: Any) -> Any:
    """The text of a sample, which of a tweet is one of its fields; anything that is no text as it is."""
    is_tweet = isinstance(sample, list) and len(sample) > _TWEET_TEXT and all(isinstance(part, str) for part in sample)
    return sample[_TWEET_TEXT] if is_tweet else sample


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _tokens(texts: Sequence[list[str]], split: Callable[[str], list[str]]) -> tuple[list[Tensor], int]:
    """int64 [n, time] of both splits, and the number of tokens: those of the training texts, unknown, padding."""
    pieces = [[split(text) for text in part] for part in texts]
    counts = Counter(piece for text in pieces[0] for piece in text)
    known = sorted(sorted(counts), key=lambda piece: -counts[piece])[:MAX_WORDS]  # of equal counts by the alphabet
    number = {piece: token for token, piece in enumerate(known)}
    unknown, padding = len(known), len(known) + 1
    longest = max(1, *(len(text) for part in pieces for text in part))
    tensors = []
    for part in pieces:
        tokens = torch.full((len(part), longest), padding, dtype=torch.int64)
        for row, text in enumerate(part):
            tokens[row, : len(text)] = torch.tensor([number.get(piece, unknown) for piece in text], dtype=torch.int64)
        tensors.append(tokens)
    return tensors, padding + 1


def _numbers(config: DataConfig, x: list[Any], path: Path) -> Tensor:
    """float32 [n, ...]; with `data.image_size` [n, C, S, S]."""
    try:
        numbers = torch.from_numpy(finite(f"data.root={path}: x", np.array(x, dtype=np.float64)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"data.root={path}: x are neither texts nor numbers of one shape ({error})") from None
    if not config.image_size:
        return numbers
    size = config.image_size
    shape = (config.channels or max(1, numbers[0].numel() // size**2), size, size)
    if numbers[0].numel() != shape[0] * size**2:
        raise ConfigError(f"data.image_size={size}: x of {path} are {numbers[0].numel()} numbers, not {list(shape)}")
    return numbers.view(-1, *shape)
