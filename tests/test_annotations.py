"""That array annotations are enforced while the tests run (tests/conftest.py)."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from fedpurin.config import ScoresConfig
from fedpurin.selection.scores import perturbation_scores
from fedpurin.space import pack_mask


def test_two_lengths_that_should_be_one_are_an_error() -> None:
    with pytest.raises(TypeCheckError, match="direction"):
        perturbation_scores(torch.ones(3), torch.ones(2), ScoresConfig())


def test_another_dtype_is_an_error() -> None:
    with pytest.raises(TypeCheckError, match="mask"):
        pack_mask(torch.ones(8))


@pytest.mark.usefixtures("unchecked")
def test_the_check_can_be_put_off() -> None:
    assert pack_mask(torch.ones(8, dtype=torch.uint8)).tolist() == [255]
