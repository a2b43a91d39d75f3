"""Objects between ranks: what goes in comes out, bit for bit, and nothing that could run comes through."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedpurin.exchange.objects import decode_object, encode_object

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
keys = st.integers() | st.text() | st.tuples(st.text(), st.integers())
items = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=20,
)


@given(items)
def test_what_is_decoded_is_what_was_encoded(item: Any) -> None:
    back = decode_object(encode_object(item))
    assert back == item
    assert repr(back) == repr(item)  # also the types inside, the order, and the sign of zero


def test_the_bytes_are_json() -> None:
    item = {3: (1, b"\x00"), "a": {"~b": math.inf}}
    assert json.loads(encode_object(item)) == {
        "~mapping": [[3, {"~tuple": [1, {"~bytes": "AA=="}]}], ["a", {"~mapping": [["~b", math.inf]]}]]
    }


class Entry(NamedTuple):
    direction: str
    encoding: str


def test_subclasses_arrive_as_their_base() -> None:
    item = {7: Counter({Entry("up", "bitmap"): 12}), "x": np.float32(0.5), "n": np.int64(2)}
    assert decode_object(encode_object(item)) == {7: {("up", "bitmap"): 12}, "x": 0.5, "n": 2}
    assert math.isnan(decode_object(encode_object(math.nan)))


@pytest.mark.parametrize(
    "tensor", [torch.arange(6, dtype=torch.uint8).view(2, 3), torch.empty(0, 2), torch.tensor(1.5)]
)
def test_small_tensors_travel(tensor: torch.Tensor) -> None:
    back = decode_object(encode_object({1: tensor}))[1]
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)


def test_what_does_not_travel_is_named() -> None:
    with pytest.raises(TypeError, match=r"a builtins\.set does not travel between ranks"):
        encode_object({1: {2}})


@pytest.mark.parametrize("array", [np.arange(6, dtype=np.int64).reshape(2, 3).T, np.empty((0, 2)), np.array([True])])
def test_arrays_of_numbers_travel(array: np.ndarray) -> None:
    back = decode_object(encode_object({1: array}))[1]
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    with pytest.raises(TypeError, match=r"a numpy\.ndarray does not travel"):
        encode_object(np.array([object()]))
