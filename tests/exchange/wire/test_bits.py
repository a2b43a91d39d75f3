"""Values at a mask's positions, of two and of four bytes, and what is common to no masks at all."""

from __future__ import annotations

import pytest
import torch

from fedpurin.exchange.wire.bits import compress, expand_into, intersection_counts
from fedpurin.space import pack_mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.float16, torch.bfloat16, torch.int64])
def test_compress_takes_what_the_mask_has_and_expand_puts_it_back(dtype: torch.dtype) -> None:
    mask = torch.zeros(128, dtype=torch.bool)
    mask[[0, 5, 63, 64, 127]] = True
    packed = pack_mask(mask)
    values = compress(torch.arange(128).to(dtype), packed)
    assert values.dtype == dtype
    assert values.tolist() == [0, 5, 63, 64, 127]
    target = torch.full((128,), -1).to(dtype)
    expand_into(target, packed, values)
    assert target[mask].tolist() == [0, 5, 63, 64, 127]
    assert (target[~mask] == -1).all()


def test_no_masks_have_nothing_in_common() -> None:
    assert intersection_counts([]).shape == (0, 0)
