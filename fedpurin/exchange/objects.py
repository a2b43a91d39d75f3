"""Small Python objects as bytes between ranks: JSON, because reading JSON runs no code.

Owns: which types travel and how those that JSON lacks are written: a mapping with one key that begins with `~`.
Does not own: moving the bytes (`processes.py`). Floats come back with the same bits, mappings in the same order.

Kept beside torch's object collectives, which pickle: what unpickles a message runs whatever code its sender chose, and a
group's port answers whoever reaches it. They also take any type, so that a module travels unnoticed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TAG = "~"


def encode_object(item: object) -> bytes:
    """The bytes of None, numbers, strings, bytes, lists, tuples, mappings with such keys, small tensors and arrays of numbers.

    Raises:
        TypeError: names the type that does not travel.
    """
    return json.dumps(_to_json(item), separators=(",", ":")).encode()


def decode_object(data: bytes) -> Any:
    """The inverse of `encode_object`. Subclasses come back as their base: an enumeration as its number, say."""
    return json.loads(data, object_hook=_from_json)


def _to_json(item: object) -> Any:
    if item is None or isinstance(item, bool | int | float | str):
        return item
    if isinstance(item, Mapping):
        if all(isinstance(key, str) and not key.startswith(_TAG) for key in item):
            return {key: _to_json(value) for key, value in item.items()}
        return {"~mapping": [[_to_json(key), _to_json(value)] for key, value in item.items()]}
    if isinstance(item, list):
        return [_to_json(value) for value in item]
    if isinstance(item, tuple):
        return {"~tuple": [_to_json(value) for value in item]}
    if isinstance(item, bytes):
        return {"~bytes": base64.b64encode(item).decode()}
    if isinstance(item, Tensor):
        return {"~tensor": _to_json(item.detach().cpu().numpy())}
    if isinstance(item, np.ndarray) and item.dtype.kind in "biufc":
        return {"~array": [item.dtype.str, list(item.shape), base64.b64encode(item.tobytes()).decode()]}
    if isinstance(item, np.generic):
        return _to_json(item.item())
    raise TypeError(f"a {type(item).__module__}.{type(item).__qualname__} does not travel between ranks")


def _from_json(value: dict[str, Any]) -> Any:
    if len(value) != 1:
        return value
    ((tag, content),) = value.items()
    if tag == "~mapping":
        return dict(content)
    if tag == "~tuple":
        return tuple(content)
    if tag == "~bytes":
        return base64.b64decode(content)
    if tag == "~array":
        kind, shape, raw = content
        return np.frombuffer(bytearray(base64.b64decode(raw)), dtype=np.dtype(kind)).reshape(shape)
    if tag == "~tensor":
        return torch.from_numpy(content)  # an array by now: what is inside is read first
    return value
