"""The files of a run folder that grow line by line, and their copies in checkpoints.

Owns: copying them into a checkpoint, bringing them back to it on resume, and keeping what was found instead. Whatever
is not what a run wrote is renamed to `NAME.aside`, never overwritten. Does not own: their lines (record.py, callbacks).
Imports neither torch nor lightning.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from fedpurin.config import ConfigError
from fedpurin.run.files import open_file

log = logging.getLogger(__name__)

LINES = "lines"
"""A checkpoint's subfolder with the growing files as they were."""
OWN = ("metrics.jsonl", "clients.csv", "masks.jsonl")
FILES = (*OWN, "config.yaml", "environment.json", "partition.json", "summary.json", "fedpurin.log", ".lock")
CHUNK_BYTES = 2**20


def appended_files(run_dir: Path) -> list[Path]:
    """The files that grow; damaged ones that an earlier resume has put aside are none."""
    return sorted(path for pattern in ("*.jsonl", "*.csv") for path in run_dir.glob(pattern) if path.is_file())


def check_places(run_dir: Path) -> None:
    """See that each of the run's files is a file of its own folder, before anything is written through it.

    Raises:
        ConfigError: names what stands in a file's place.
    """
    if (run_dir / "checkpoints").exists() and not (run_dir / "checkpoints").is_dir():
        raise ConfigError(f"{run_dir / 'checkpoints'} is not a folder, and checkpoints belong there; move it away")
    links = [path.name for path in [*appended_files(run_dir), run_dir / "checkpoints"] if path.is_symlink()]
    for name in dict.fromkeys((*FILES, *links)):
        path = run_dir / name
        if path.is_symlink() and not path.resolve().is_relative_to(run_dir.resolve()):
            raise ConfigError(f"{path} is a link to {os.readlink(path)}, outside the run folder; copy it, or remove it")
        if path.exists() and not path.is_file() and name not in links:
            raise ConfigError(f"{path} is not a file, and one of the run's files belongs there; move it away")


def copy_files(run_dir: Path, folder: Path) -> None:
    """Copy the growing files as they are now, and force the copies to disk."""
    folder.mkdir(parents=True)
    for path in appended_files(run_dir):
        shutil.copyfile(path, folder / path.name)
        with (folder / path.name).open("rb") as file:
            os.fsync(file.fileno())


def is_intact(run_dir: Path, copies: Path) -> bool:
    """Whether the folder's growing files are those of a checkpoint (true where it has no copies)."""
    names = [path.name for path in copies.iterdir()] if copies.is_dir() else []
    return all(
        (run_dir / name).is_file()
        and (copies / name).is_file()
        and (run_dir / name).stat().st_size == (copies / name).stat().st_size
        and _begins_like(run_dir / name, copies / name)
        for name in names
    )


def bring_back(run_dir: Path, copies: Path | None, lengths: Mapping[str, int], *, keep: bool = False) -> None:
    """Bring the growing files back to a checkpoint, so that no round is there twice, in part, or not at all.

    A file that begins with the copy's bytes is cut back to them; any other is put aside, and the copy takes its place.
    A checkpoint without copies (an earlier version's) has `lengths` only: what has lost bytes is a warning. Without
    any checkpoint the rounds begin anew, and those that are there are put aside; `keep` puts
    aside files without a whole round as well.
    """
    copied = {path.name for path in copies.iterdir()} if copies is not None and copies.is_dir() else set()
    lost = _count_lines(run_dir / OWN[0]) if copies is None else 0
    if lost:
        log.warning("%s: no checkpoint is left of the %d rounds that were done; the run begins anew", run_dir, lost)
    for path in appended_files(run_dir):
        if path.name in copied:
            continue
        kept = lengths.get(path.name, 0)
        if path.stat().st_size < kept:
            log.warning("%s has lost bytes since the checkpoint: %d of %d are left", path, path.stat().st_size, kept)
        elif kept:
            os.truncate(path, kept)
        elif path.name in OWN and not lost and not keep:
            path.unlink()  # its rounds come again
        else:
            put_aside(path, "is of those rounds" if lost else "holds nothing that the checkpoint knows of")
    for name in sorted(copied):
        assert copies is not None
        path, copy = run_dir / name, copies / name
        if path.is_file() and _begins_like(path, copy):
            os.truncate(path, copy.stat().st_size)
            continue
        if path.exists():
            put_aside(path, "differs from the checkpoint's copy, which takes its place")
        else:
            log.warning("%s is missing, and is written anew from the checkpoint", path)
        new = path.with_name(f"{name}.partial")
        shutil.copyfile(copy, new)
        os.replace(new, path)


def put_aside(path: Path, why: str) -> Path:
    """Rename to a free name that nothing reads."""
    free = (path.with_name(f"{path.name}.aside" + (f"-{n}" if n > 1 else "")) for n in itertools.count(1))
    aside = next(name for name in free if not name.exists())
    path.rename(aside)
    log.warning("%s %s; what was there is kept as %s", path, why, aside.name)
    return aside


def _count_lines(path: Path) -> int:
    if not path.is_file():
        return 0
    with open_file(path) as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(CHUNK_BYTES), b""))


def _begins_like(path: Path, copy: Path) -> bool:
    with open_file(path) as mine, open_file(copy) as theirs:
        while chunk := theirs.read(CHUNK_BYTES):
            if mine.read(len(chunk)) != chunk:
                return False
    return True
