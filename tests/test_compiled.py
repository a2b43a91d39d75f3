"""Kernels compile where neither the installation nor the home folder can be written."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest

from fedpurin import compiled


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """numba finds no place of its own; TMPDIR is the test's folder."""

    def njit(*, cache: bool = False, **options: Any) -> Callable[[Any], Any]:
        if cache and numba.config.CACHE_DIR in ("", os.devnull):
            raise RuntimeError("cannot cache function 'f': no locator available for file 'x.py'")
        return lambda function: (function, cache, options)

    monkeypatch.setattr(numba, "njit", njit)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"fedpurin-numba-{os.getuid()}"


def test_the_cache_moves_below_tmpdir_once(nowhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        results = [compiled.njit(inline="always")(print) for _ in range(2)]
    assert results == [(print, True, {"nogil": True, "inline": "always"})] * 2
    assert [record.message for record in caplog.records] == [
        f"numba's cache is in {nowhere}: neither the installation nor the home folder can be written"
    ]
    assert nowhere.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_write_is_not_used(nowhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    nowhere.mkdir()
    nowhere.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        results = [compiled.njit()(print) for _ in range(2)]
    assert results == [(print, False, {"nogil": True})] * 2
    assert [record.message for record in caplog.records] == [
        "no folder for numba's cache can be written: kernels are compiled at each start, in about a minute"
    ]
