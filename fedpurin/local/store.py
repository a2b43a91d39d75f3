"""Where clients' models lie while they take no part: on the device, in the host's memory, or in files.

Owns: moving a client's large tensors (its vector, the method's further ones) to the device before its round and back
after it, the files' memory maps. Does not own: who takes part (`federation.py`), what a client keeps (`client.py`).

A round sees its participants as if there were no store. Files have no name: nobody else sees them, and the system
removes them when the process ends, however it ends. Their space is taken when they are made, so a disk that fills
up later harms no client. Moving copies bytes: results do not depend on the store.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from fedpurin.config import ClientsConfig, ConfigError
from fedpurin.local.client import Client

SMALL_BYTES = 64 * 2**10
"""What is smaller stays where it is: a page of a file and a copy cost more than they save."""


class DeviceStore:
    """`clients.store=device`: everything stays where it is trained."""

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

    def fetch(self, clients: Iterable[Client]) -> None:
        for client in clients:
            _replace(client, lambda _, tensor: tensor.to(self.device))

    def put_back(self, clients: Iterable[Client]) -> None:
        for client in clients:
            _replace(client, lambda _, tensor: tensor.cpu() if tensor.nbytes >= SMALL_BYTES else tensor)


class DiskStore(DeviceStore):
    """`clients.store=disk`: clients are memory maps of files, which the system reads and writes as memory allows.

    On a CPU a client trains in its map; after its round its pages leave the process. On a GPU maps are copied.
    """

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device, self.folder = device, folder
        self._maps: dict[tuple[int, str], tuple[mmap.mmap, Tensor]] = {}

    def fetch(self, clients: Iterable[Client]) -> None:
        for client in clients:
            _replace(client, lambda _, tensor: tensor.to(self.device))

    def put_back(self, clients: Iterable[Client]) -> None:
        for client in clients:
            _replace(client, lambda name, tensor, client=client: self._store(client.id, name, tensor))  # type: ignore[misc]

    def prefetch(self, clients: Iterable[Client]) -> None:
        for client in clients:
            for memory, _ in self._of(client):
                memory.madvise(mmap.MADV_WILLNEED)

    def _store(self, client_id: int, name: str, tensor: Tensor) -> Tensor:
        if tensor.nbytes < SMALL_BYTES:
            return tensor
        memory, mapped = self._maps.get((client_id, name), (None, None))
        if memory is None or mapped is None or mapped.shape != tensor.shape or mapped.dtype != tensor.dtype:
            memory, mapped = self._maps[client_id, name] = self._map(tensor)
        if mapped.data_ptr() != tensor.data_ptr():
            mapped.copy_(tensor)
        memory.madvise(mmap.MADV_DONTNEED)  # out of this process; what was written stays in the file
        return mapped

    def _map(self, like: Tensor) -> tuple[mmap.mmap, Tensor]:
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                os.posix_fallocate(file.fileno(), 0, like.nbytes)
                memory = mmap.mmap(file.fileno(), like.nbytes)
        except OSError as error:
            raise OSError(
                error.errno,
                f"clients.store=disk: {error.strerror} for {like.nbytes / 1e6:.0f} MB more of clients' models "
                "(clients.folder names another place)",
                str(self.folder),
            ) from None
        return memory, torch.frombuffer(memory, dtype=like.dtype).view(like.shape)

    def _of(self, client: Client) -> list[tuple[mmap.mmap, Tensor]]:
        names = ("vector", *client.extra)
        return [self._maps[client.id, name] for name in names if (client.id, name) in self._maps]


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
