"""numba's compiler for this project's kernels, with a place for what it has compiled.

Owns: where compiled code is kept between runs. numba takes the installation's own folder, or else the user's cache
folder; where neither can be written (an image, a batch user without a home) it fails, and this falls back on a private
folder below TMPDIR, or on compiling at each start. Does not own: the kernels.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

log = logging.getLogger(__name__)


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit(nogil=True, cache=True, ...)` that works without a writable folder."""

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
        if numba.config.CACHE_DIR or not _move_cache():
            return numba.njit(nogil=True, **options)(function)
        return compiled(function)

    return compiled


def _move_cache() -> bool:
    """Send numba to a folder that only this user can write: others could plant code there; False where there is none."""
    folder = Path(tempfile.gettempdir()) / f"fedpurin-numba-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        found = None
    if found is None or not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        log.warning("no folder for numba's cache can be written: kernels are compiled at each start, in about a minute")
        numba.config.CACHE_DIR = os.devnull  # asked once
        return False
    log.warning("numba's cache is in %s: neither the installation nor the home folder can be written", folder)
    numba.config.CACHE_DIR = str(folder)
    return True
