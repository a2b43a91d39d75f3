"""Checkpoints on disk: save, verify, find, read, prune. Nothing here knows what the tensors mean.

    RUN_DIR/checkpoints/round-00010/     the state between rounds: ten rounds are done, round 10 comes next
        tensors/                         torch.distributed.checkpoint; keys name clients, so any number of ranks reads it
        state.json                       everything that is not a tensor
        lines/                           the run folder's growing files as they were
        manifest.json                    the run's id, every file's length and SHA-256; written last

A checkpoint is written aside, fsynced, read back against its manifest and only then renamed into place, so a folder
called `round-…` was once complete; what has happened to it since, `verify` tells by the digests. Does not own: what
is saved and when (checkpointer.py), which run may continue from it (resume.py).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from fedpurin.exchange import Processes
from fedpurin.run.files import open_file, read_file
from fedpurin.run.growing import LINES, appended_files, copy_files
from fedpurin.run.place import free_bytes, in_words
from fedpurin.run.tensor_files import METADATA, DamagedTensorsError, read_tensors

FOLDER = "checkpoints"
TENSORS, STATE, MANIFEST = "tensors", "state.json", "manifest.json"
NAME = re.compile(r"round-(\d{5,})")
MEMBER = re.compile(rf"{re.escape(STATE)}|{TENSORS}/(__\d+_\d+\.distcp|{re.escape(METADATA)})|{LINES}/[^/]+")
"""The names of a checkpoint's files, as its manifest may hold them."""
STATE_BYTES = 64 * 2**10
"""What a checkpoint takes beside tensors and lines, at least: state, manifest, torch's metadata."""


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written, or that does not hold what it once held."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder and the number of rounds done when it was taken."""

    path: Path
    rounds_done: int

    def verify(self, run_id: str | None = None) -> None:
        """Compare every file with the manifest, and the manifest with the run where its id is known.

        Raises:
            CheckpointError: names the first file that is missing or differs.
        """
        try:
            manifest = json.loads(read_file(self.path / MANIFEST))
            files: dict[str, dict[str, Any]] = dict(manifest["files"])
            rounds_done, owner = int(manifest["rounds_done"]), manifest.get("run")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{self.path}: {MANIFEST} cannot be read ({type(error).__name__})") from None
        if rounds_done != self.rounds_done:
            raise CheckpointError(f"{self.path}: {MANIFEST} is of the checkpoint after {rounds_done} rounds")
        if run_id and owner and owner != run_id:
            raise CheckpointError(f"{self.path} is a checkpoint of another run ({owner}; this one is {run_id})")
        if lacking := {STATE, f"{TENSORS}/{METADATA}"} - files.keys():
            raise CheckpointError(f"{self.path}: {MANIFEST} does not name {', '.join(sorted(lacking))}")
        inside = self.path.resolve()
        for name, expected in files.items():
            if not MEMBER.fullmatch(name) or (self.path / name).resolve() != inside / name:
                raise CheckpointError(f"{self.path}: {MANIFEST} names {name}, which is not inside the checkpoint")
            length = expected.get("bytes") if isinstance(expected, dict) else None
            try:
                found = (self.path / name).stat().st_size
                is_whole = found == length and _fingerprint(self.path / name) == expected  # a longer one is not read
            except OSError as error:
                raise CheckpointError(f"{self.path}: {name} cannot be read ({error.strerror})") from None
            if not is_whole:
                what = (
                    "is cut short" if isinstance(length, int) and found < length else "has other bytes than were saved"
                )
                raise CheckpointError(f"{self.path}: {name} {what}")

    def read_state(self) -> dict[str, Any]:
        """What `state.json` holds."""
        return cast(dict[str, Any], json.loads((self.path / STATE).read_text(encoding="utf-8")))

    def read_tensors(self, wanted: Callable[[str], bool], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The tensors whose keys are wanted, in new memory. Every rank reads by itself.

        Raises:
            CheckpointError: they cannot be read.
        """
        try:
            with _quiet():
                return read_tensors(self.path / TENSORS, wanted, device)
        except DamagedTensorsError as error:
            raise CheckpointError(f"{self.path}: {error}") from None


class Writing:
    """A checkpoint on its way: `Writing(...)` starts it, `commit()` puts it into place. Both are collectives.

    Between the two nothing else may use `group`. With `asynchronous` the tensors are copied at once and written by a
    thread while training goes on; otherwise the constructor returns when they are on disk.
    """

    def __init__(
        self,
        run_dir: Path,
        rounds_done: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        processes: Processes,
        *,
        run_id: str = "",
        group: Any = None,
        asynchronous: bool = False,
    ) -> None:
        self.final = run_dir / FOLDER / f"round-{rounds_done:05d}"
        self._aside = self.final.with_name(f".{self.final.name}.partial")
        self._rounds_done, self._state, self._processes, self._run_id = rounds_done, dict(state), processes, run_id
        self._bytes = sum(tensor.nbytes for tensor in tensors.values())
        self._pending: Future[Any] | None = None
        self._failure: str | None = None
        if processes.rank == 0:
            shutil.rmtree(self._aside, ignore_errors=True)
            try:
                self.final.parent.mkdir(exist_ok=True)  # and not the run folder, which may have been moved
                copy_files(run_dir, self._aside / LINES)
            except OSError as error:
                self._failure = _cause(error)
        self._failure = processes.broadcast_object(self._failure)
        if self._failure is not None:
            return
        alone = processes.size == 1
        target: dict[str, Any] = dict(tensors)
        arguments: dict[str, Any] = {"process_group": group, "no_dist": alone}
        try:
            writer = dcp.FileSystemWriter(self._aside / TENSORS)
            with _quiet():
                if asynchronous:
                    self._pending = cast("Future[Any]", dcp.async_save(target, storage_writer=writer, **arguments))
                else:
                    dcp.save(target, storage_writer=writer, **arguments)
        except (CheckpointException, OSError, RuntimeError) as error:
            self._failure = _cause(error)

    def commit(self) -> Checkpoint:
        """Wait for the tensors, add state and manifest, check, and rename into place.

        Raises:
            CheckpointError: on every rank, when anything failed on any; what was written aside is removed.
        """
        files: dict[str, Any] = {}
        try:
            if self._pending is not None:
                self._pending.result()
            if self._failure is None:
                files = self._fingerprints(f"{TENSORS}/__{self._processes.rank}_*")
        except (CheckpointException, OSError, RuntimeError) as error:
            self._failure = _cause(error)
        reports = self._processes.gather_objects((self._failure, files, self._bytes))
        failure = next((report for report, _, _ in reports if report is not None), None)
        if failure is None and self._processes.rank == 0:
            failure = self._finish({name: entry for _, part, _ in reports for name, entry in part.items()})
        if failure is not None and self._processes.rank == 0:
            failure = self._with_space(failure, sum(size for _, _, size in reports))
        failure = self._processes.broadcast_object(failure)
        if failure is not None:
            if self._processes.rank == 0:
                shutil.rmtree(self._aside, ignore_errors=True)
            raise CheckpointError(f"{self.final}: not written: {failure}")
        return Checkpoint(self.final, self._rounds_done)

    def _with_space(self, failure: str, needed: int) -> str:
        """The failure with the space that a checkpoint takes, where it is the space that lacks.

        torch's writer says "unexpected pos" then, so what is free decides.
        """
        lines = [path.stat().st_size for path in appended_files(self.final.parent.parent)]
        needed += sum(lines) + STATE_BYTES
        folder = self.final.parent if self.final.parent.is_dir() else self.final.parent.parent
        shutil.rmtree(self._aside, ignore_errors=True)  # its own part is free again
        free = free_bytes(folder)
        if not folder.is_dir() or (os.strerror(errno.ENOSPC) not in failure and free >= needed):
            return failure
        return f"{os.strerror(errno.ENOSPC)}: it takes about {in_words(needed)}, {in_words(free)} are free"

    def _finish(self, files: dict[str, Any]) -> str | None:
        """Rank 0's part; returns what went wrong."""
        try:
            _write_synced(self._aside / STATE, self._state)
            for pattern in (f"{TENSORS}/{METADATA}", STATE, f"{LINES}/*"):
                files |= self._fingerprints(pattern)
            manifest = {"run": self._run_id, "rounds_done": self._rounds_done, "files": files}
            _write_synced(self._aside / MANIFEST, manifest)
            missing = {str(path.relative_to(self._aside)) for path in (self._aside / TENSORS).iterdir()} - files.keys()
            if missing:
                return f"{', '.join(sorted(missing))} came unannounced"
            Checkpoint(self._aside, self._rounds_done).verify()
            for folder in (self._aside / TENSORS, self._aside / LINES, self._aside):
                _sync(folder)
            old = self.final.with_name(f".{self.final.name}.old")
            if self.final.exists():  # a damaged one, or the same rounds run again
                shutil.rmtree(old, ignore_errors=True)
                self.final.rename(old)
            self._aside.rename(self.final)
            _sync(self.final.parent)
            shutil.rmtree(old, ignore_errors=True)
        except (OSError, CheckpointError) as error:
            return _cause(error)
        return None

    def _fingerprints(self, pattern: str) -> dict[str, Any]:
        return {str(path.relative_to(self._aside)): _fingerprint(path) for path in sorted(self._aside.glob(pattern))}


def find_all(run_dir: Path) -> list[Checkpoint]:
    """The run folder's checkpoints, newest first, unverified."""
    folder = run_dir / FOLDER
    names = [(path, NAME.fullmatch(path.name)) for path in folder.iterdir()] if folder.is_dir() else []
    found = [Checkpoint(path, int(match[1])) for path, match in names if match and path.is_dir()]
    return sorted(found, key=lambda checkpoint: checkpoint.rounds_done, reverse=True)


def find_latest(run_dir: Path, report: Callable[[str], None], run_id: str | None = None) -> Checkpoint | None:
    """The newest checkpoint that is what was saved; `report` is told every newer one that is not."""
    for checkpoint in find_all(run_dir):
        try:
            checkpoint.verify(run_id)
        except CheckpointError as error:
            report(f"damaged checkpoint skipped: {error}")
        else:
            return checkpoint
    return None


def prune(run_dir: Path, keep: int, best: int | None) -> None:
    """Remove all but the `keep` newest and the one after `best` rounds; also what an earlier crash left aside."""
    for checkpoint in find_all(run_dir)[keep:]:
        if checkpoint.rounds_done != best:
            shutil.rmtree(checkpoint.path, ignore_errors=True)
    for leftover in (run_dir / FOLDER).glob(".round-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def sync_files(paths: Iterable[Path]) -> dict[str, int]:
    """Force files to disk; their lengths in bytes by name."""
    lengths = {}
    for path in paths:
        _sync(path)
        lengths[path.name] = path.stat().st_size
    return lengths


def _fingerprint(path: Path) -> dict[str, Any]:
    with open_file(path) as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_synced(path: Path, value: Mapping[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _quiet() -> Any:
    """torch warns that one process is one process, and of its own deprecated calls."""
    return warnings.catch_warnings(action="ignore")


def _cause(error: BaseException) -> str:
    """The innermost reason in one line."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip().splitlines()[-1:]
    return f"{type(error).__name__}: {text if isinstance(text, str) else ''.join(text)}"
