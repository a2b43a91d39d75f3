"""Where clients' models lie while they take no part: on the device, in the host's memory, or in files.

Owns: moving a client's large tensors (its vector, the method's further ones) to the device before its round and back
after it, the files' memory maps. Does not own: who takes part (`federation.py`), what a client keeps (`client.py`).

A round sees its participants as if there were no store. A rank's file has no name: nobody else sees it, and the
system removes it when the process ends, however it ends. Every tensor has a range of it, whose space is taken when the
range is made, so a disk that fills up later harms no client. Moving copies bytes: results do not depend on the store.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from fedpurin.config import ClientsConfig, ConfigError
from fedpurin.local.client import Client

SMALL_BYTES = 64 * 2**10
"""What is smaller stays where it is: a page of a file and a copy cost more than they save."""

MAP_BYTES = 2**30
"""A memory map holds the ranges of many tensors: each map keeps a file descriptor, of which a process may have few."""


class DeviceStore:
    """`clients.store=device`: everything stays where it is trained."""

    def first(self, client_id: int, vector: Tensor) -> Tensor:
        """A client's own copy of the vector that all start from, where it will lie."""
        return vector.clone()

    def fetch(self, clients: Iterable[Client]) -> None:
        """Bring the participants of a round to the device."""

    def put_back(self, clients: Iterable[Client]) -> None:
        """Move away what took part."""

    def prefetch(self, clients: Iterable[Client]) -> None:
        """Say who takes part next."""


class HostStore(DeviceStore):
    """`clients.store=cpu`: idle clients of a GPU wait in the host's memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def first(self, client_id: int, vector: Tensor) -> Tensor:
        return vector.to("cpu", copy=True)

    def fetch(self, clients: Iterable[Client]) -> None:
        for client in clients:
            _replace(client, lambda _, tensor: tensor.to(self.device))

    def put_back(self, clients: Iterable[Client]) -> None:
        for client in clients:
            _replace(client, lambda _, tensor: tensor.cpu() if tensor.nbytes >= SMALL_BYTES else tensor)


@dataclass(frozen=True)
class Range:
    """A part of the file, of whole pages: where it starts in which map, and its length in bytes."""

    memory: mmap.mmap
    start: int
    length: int

    def tensor(self, like: Tensor) -> Tensor:
        """The first bytes of the range, seen as a tensor of this shape and type."""
        flat = torch.frombuffer(self.memory, dtype=like.dtype, count=like.numel(), offset=self.start)
        return flat.view(like.shape)

    def advise(self, advice: int) -> None:
        self.memory.madvise(advice, self.start, self.length)


class RangeFile:
    """One nameless file in ranges; one that is given back is used again where another is needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None
        self._memory: mmap.mmap | None = None
        self._in_file = self._in_map = 0  # bytes of the file that are mapped; bytes of the last map that are given out
        self._free: list[Range] = []

    def take(self, num_bytes: int) -> Range:
        """A range of at least so many bytes, whose space on the disk is taken.

        Raises:
            OSError: the disk is full, or the process may have no further file or map.
        """
        length = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        fitting = [piece for piece in self._free if piece.length >= length]
        if fitting:
            best = min(fitting, key=lambda piece: piece.length)
            self._free.remove(best)
            return best
        try:
            return self._new(length)
        except OSError as error:
            raise OSError(
                error.errno,
                f"clients.store=disk: {error.strerror} for {num_bytes / 1e6:.3g} MB more of clients' models "
                "(clients.folder names another place)",
                str(self.folder),
            ) from None

    def give_back(self, piece: Range) -> None:
        """The range's tensor is used no more."""
        self._free.append(piece)

    def _new(self, length: int) -> Range:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - open as long as its ranges are
        if self._memory is None or self._in_map + length > len(self._memory):
            size = max(MAP_BYTES, length)
            os.ftruncate(self._file.fileno(), self._in_file + size)  # takes no space yet
            self._memory = mmap.mmap(self._file.fileno(), size, offset=self._in_file)
            self._in_file, self._in_map = self._in_file + size, 0
        start = self._in_map
        os.posix_fallocate(self._file.fileno(), self._in_file - len(self._memory) + start, length)
        self._in_map += length
        return Range(self._memory, start, length)


class DiskStore(DeviceStore):
    """`clients.store=disk`: clients lie in a memory-mapped file, which the system reads and writes as memory allows.

    On a CPU a client trains in its map; after its round its pages leave the process. On a GPU maps are copied.
    """

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device, self._file = device, RangeFile(folder)
        self._places: dict[tuple[int, str], tuple[Range, Tensor]] = {}

    def first(self, client_id: int, vector: Tensor) -> Tensor:
        # Straight into the file: the heap would keep the room of a copy, since smaller things come to lie in it.
        return vector.clone() if vector.nbytes < SMALL_BYTES else self._store(client_id, "vector", vector)

    def fetch(self, clients: Iterable[Client]) -> None:
        for client in clients:
            _replace(client, lambda _, tensor: tensor.to(self.device))

    def put_back(self, clients: Iterable[Client]) -> None:
        for client in clients:
            _replace(client, lambda name, tensor, client=client: self._store(client.id, name, tensor))  # type: ignore[misc]

    def prefetch(self, clients: Iterable[Client]) -> None:
        for client in clients:
            for name in ("vector", *client.extra):
                if (client.id, name) in self._places:
                    self._places[client.id, name][0].advise(mmap.MADV_WILLNEED)

    def _store(self, client_id: int, name: str, tensor: Tensor) -> Tensor:
        if tensor.nbytes < max(SMALL_BYTES, 1):
            return tensor
        place, mapped = self._places.get((client_id, name), (None, None))
        if place is None or mapped is None or mapped.shape != tensor.shape or mapped.dtype != tensor.dtype:
            fresh = self._file.take(tensor.nbytes)
            if place is not None:
                self._file.give_back(place)
            place, mapped = self._places[client_id, name] = fresh, fresh.tensor(tensor)
        if mapped.data_ptr() != tensor.data_ptr():
            mapped.copy_(tensor)
        place.advise(mmap.MADV_DONTNEED)  # out of this process; what was written stays in the file
        return mapped


def make_store(config: ClientsConfig, device: torch.device, *, num_clients: int, num_bytes: int) -> DeviceStore:
    """The store that is asked for; `num_bytes` is what a client's vector takes, `num_clients` how many share a disk.

    Raises:
        ConfigError: a folder that is not there, or has not the space for one vector a client.
    """
    if config.store == "device" or (config.store == "cpu" and device.type == "cpu"):
        return DeviceStore()
    if config.store == "cpu":
        return HostStore(device)
    folder = Path(config.folder or tempfile.gettempdir()).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"clients.folder={folder} is not a folder")
    needed, free = num_clients * num_bytes, shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"clients.store=disk needs {needed / 1e9:.2f} GB for {num_clients} clients and {folder} has "
            f"{free / 1e9:.2f} GB left; name another folder with clients.folder"
        )
    return DiskStore(device, folder)


def remark(config: ClientsConfig, device: torch.device) -> str | None:
    """What is worth a warning about the store that is asked for."""
    if config.store == "cpu" and device.type == "cpu":
        return "clients.store=cpu changes nothing on a CPU (disk does)"
    if config.store != "disk" and config.folder is not None:
        return (
            f"clients.folder={config.folder} has no effect: clients.store={config.store} does not read it (disk does)"
        )
    if config.store == "disk" and _is_memory(folder := Path(config.folder or tempfile.gettempdir()).expanduser()):
        return f"clients.store=disk: {folder} lies in memory (tmpfs); name a folder of a disk with clients.folder"
    return None


def _is_memory(folder: Path) -> bool:
    """Whether the folder's file system is one of the main memory."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return False
    place = folder.resolve()
    around = [mount for mount in mounts if place.is_relative_to(mount[1])]
    return max(around, key=lambda mount: len(mount[1]), default=["", "", ""])[2] in ("tmpfs", "ramfs")


def _replace(client: Client, move: Callable[[str, Tensor], Tensor]) -> None:
    client.vector = move("vector", client.vector)
    for name, tensor in client.extra.items():
        client.extra[name] = move(name, tensor)
