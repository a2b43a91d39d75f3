"""Files of a run folder, opened as what a run writes: plain files, of a size that fits their purpose.

A folder may come from anybody. A pipe in a file's place would be waited for without end, a device read without end,
and a file of holes takes no disk and all memory. Does not own: what a file says (reader.py, stored_config.py,
checkpoint.py). Imports nothing of ours.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

SMALL_BYTES = 64 * 2**20
"""More than any configuration, summary or list of classes has: those of a thousand clients stay below 10 MiB."""
LARGE_BYTES = 2 * 2**30
"""More than records have, which grow with rounds and clients: a thousand of each make about 200 MiB."""


def open_file(path: Path, most: int | None = None) -> BufferedReader:
    """Open a plain file for reading; with `most`, one that has no more bytes.

    Raises:
        OSError: it is something else, larger, or cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # to open a pipe would wait for a writer
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and (most is None or status.st_size <= most):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a plain file", str(path))
    raise OSError(errno.EFBIG, f"It has {status.st_size} bytes, and at most {most} are expected", str(path))


def read_file(path: Path, most: int = SMALL_BYTES) -> bytes:
    """All bytes of a plain file that is no larger than `most`.

    Raises:
        OSError: it is something else, larger, or cannot be read.
    """
    with open_file(path, most) as file:
        return file.read()
