"""Array annotations are checked while the tests run: shapes, dimensions by name, dtypes, plain types beside them.

jaxtyping's import hook puts beartype around every function and class of the modules that annotate arrays. It has to
be there before they are imported, hence here. Left out are modules that numba compiles: it compiles no wrapped function.
Processes that a test starts run without it. Also here: fixtures for tests all over the tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import config, install_import_hook

from tests import typechecker

ROOT = Path(__file__).parent.parent


PACKAGES = ("fedpurin", "callbacks", "lightning_modules")


def annotated_modules() -> list[str]:
    """Modules with array annotations whose functions Python runs itself."""
    texts = {path: path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path, text in texts.items()
        if "from jaxtyping import" in text and "import njit" not in text
    ]


install_import_hook(annotated_modules(), f"{typechecker.__name__}.check")


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
