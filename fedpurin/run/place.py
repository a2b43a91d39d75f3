"""Where a run folder lies, and what to say once it can no longer be written: deleted, moved, full, cut off.

Owns: noticing that the path leads elsewhere than when the run began, one line for an error of the file system. Does not
own: writing (record.py, checkpoint.py), who prints the line. Imports neither torch nor lightning.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
DISKS = (*FULL, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
"""Errors of writing that a disk causes, whatever the file."""
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
UNITS = ("B", "kB", "MB", "GB", "TB")


class LogFile(logging.FileHandler):
    """A log whose lines wait in memory while its file cannot be written, say on a full disk.

    Python's own prints a traceback for each of them; what the run needs from its folder it notices by itself.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file, without lines that still find no space."""
        with suppress(OSError):
            super().close()


class FolderError(OSError):
    """The run folder cannot be written any more. The text is one line for the user."""

    def __str__(self) -> str:
        return str(self.args[1]) if len(self.args) > 1 else super().__str__()


class Place:
    """A folder by its path, and by the folder itself, which may be moved or deleted while its run goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)  # closed in children, and when the process ends
        self._identity = _identity(os.fstat(self._folder))

    def __del__(self) -> None:
        if hasattr(self, "_folder"):
            os.close(self._folder)

    def is_there(self) -> bool:
        """Whether the path still leads to the folder."""
        try:
            return _identity(self.path.stat()) == self._identity
        except OSError:
            return False

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise an error that has to do with the folder as one that says so."""
        try:
            yield
        except OSError as error:
            if (line := self.explain(error)) is None or line is error:
                raise
            raise line from error

    def check(self, *names: str) -> None:
        """See that the folder is where it was, and has the files of these names.

        Raises:
            FolderError: it is not; the text says where it is now, where that is known. Or it lacks a file.
        """
        if not self.is_there():
            raise FolderError(errno.ENOENT, self._explain_absence())
        if gone := [name for name in names if not (self.path / name).exists()]:
            raise FolderError(
                errno.ENOENT,
                f"hydra.run.dir={self.path}: {gone[0]} was removed while the run went on; {how_to_go_on(self.path)}",
            )

    def explain(self, error: OSError) -> FolderError | None:
        """The error in a line; None where it has nothing to do with the folder."""
        if isinstance(error, FolderError):
            return error
        if not self.is_there():
            return FolderError(errno.ENOENT, self._explain_absence())
        inside = error.filename is not None and Path(os.fsdecode(error.filename)).is_relative_to(self.path)
        if error.errno not in DISKS and not inside:
            return None
        reason = error.strerror or str(error)
        where = f"hydra.run.dir={self.path} can no longer be written: {reason}"
        if error.errno in FULL:
            where += f" ({in_words(free_bytes(self.path))} are free there{_needed(self.path)}); make space, then"
        else:
            where += f" ({Path(os.fsdecode(error.filename)).name});" if inside else ";"
        return FolderError(error.errno or errno.EIO, f"{where} {how_to_go_on(self.path)}")

    def _explain_absence(self) -> str:
        what = f"hydra.run.dir={self.path} "
        now = self._now()
        if now is None:
            return (
                f"{what}is not there any more (deleted, moved, or its file system is gone), and the run's state with it: "
                f"bring it back and {how_to_go_on(self.path)}, or begin anew in another folder"
            )
        return f"{what}was moved to {now} while the run went on; {how_to_go_on(now)}"

    def _now(self) -> Path | None:
        """Where the folder is now, on Linux, which knows the name of an open file."""
        try:
            if os.fstat(self._folder).st_nlink == 0:
                return None
            now = Path(os.readlink(f"/proc/self/fd/{self._folder}"))
            return now if _identity(now.stat()) == self._identity else None
        except OSError:
            return None


def how_to_go_on(run_dir: Path) -> str:
    saved = newest_checkpoint(run_dir)
    after = f" goes on after round {int(saved.name.removeprefix('round-'))}" if saved is not None else " continues it"
    return f"`fedpurin resume {shlex.quote(str(run_dir))}`{after}"


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The newest by its name, unverified."""
    found = [path for path in (run_dir / "checkpoints").glob("round-*") if path.name[len("round-") :].isdigit()]
    return max(found, key=lambda path: int(path.name[len("round-") :]), default=None)


def free_bytes(folder: Path) -> int:
    """What this user may still write there; 0 where the file system does not say."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def in_words(count: float) -> str:
    """A number of bytes with three digits."""
    unit = 0
    while count >= 1000 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {UNITS[unit]}"


def _needed(run_dir: Path) -> str:
    saved = newest_checkpoint(run_dir)
    if saved is None:
        return ""
    size = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
    return f"; the newest checkpoint has {in_words(size)}"


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino
