"""Fixtures for tests all over the tree."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from jaxtyping import config


@pytest.fixture
def unchecked() -> Iterator[None]:
    """For a test that passes what the annotations forbid, to see what users get who have no checker."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Lets torch, and with it our own kernels, use so many threads (the parameter) on whatever machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
