"""One text from the first process to all ranks of a start, before Fabric has made the process group, or over it.

Owns: torchrun's store, or one that the first process hosts beside the rendezvous of an srun step. Does not own: what
the text says (run/folder.py), the process group itself (processes.py).
"""

from __future__ import annotations

import errno
import os
import platform
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from torch.distributed import distributed_c10d

from fedpurin.config import ConfigError

WAIT = timedelta(seconds=300)
LOOPBACK = "127.0.0.1"
BACKLOG = 2048
_num_requests = count()
_stores: list[Any] = []  # rank 0 may host the store, which has to live while the others read


def has_group() -> bool:
    """Whether this process belongs to a process group already, as in a script's second run."""
    return dist.is_available() and dist.is_initialized()


def from_first(name: Callable[[], str]) -> str:
    """What `name` returns on rank 0 of the process group; the other ranks do not call it."""
    store = distributed_c10d._get_default_store()
    key = f"fedpurin/first/{next(_num_requests)}"
    if dist.get_rank() == 0:
        store.set(key, name())
    return str(store.get(key).decode())


def from_first_before_group(name: Callable[[], str], *, first: bool) -> str:
    """What `name` returns on the first process that torchrun or srun started; the others wait for it."""
    store = _store(first)
    key = f"fedpurin/run_dir/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if first:
        store.set(key, name())
    return str(store.get(key).decode())


def make_store(address: str, port: int, *, hosts: bool, one_node: bool, timeout: timedelta = WAIT) -> Any:
    """A key-value store that one process hosts; with `one_node` other machines cannot reach it.

    Raises:
        ConfigError: another program listens at the port.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    options: dict[str, Any] = {"is_master": hosts, "wait_for_workers": False, "timeout": timeout}
    with taken_port_is_named(port):
        if one_node and hosts:
            options["master_listen_fd"] = socket.create_server((LOOPBACK, port), backlog=BACKLOG).detach()
        return TCPStore(LOOPBACK if one_node else address, port, **options)


@contextmanager
def taken_port_is_named(port: int) -> Iterator[None]:
    """Turn "address already in use", of a socket or of torch's store, into a line that says what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if getattr(error, "errno", None) != errno.EADDRINUSE and "EADDRINUSE" not in str(error):
            raise
        raise ConfigError(
            f"port {port} of {platform.node()}, where the ranks should meet, is in use by another program: start again, "
            f"or choose one that is free on every node, with `export MASTER_PORT={port + 2}` before srun, say"
        ) from None


def stay_on_loopback() -> None:
    """Let gloo listen where this machine alone can connect, unless the user has named an interface."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if names and "GLOO_SOCKET_IFNAME" not in os.environ:
        os.environ["GLOO_SOCKET_IFNAME"] = names[0]


def make_local_group(
    backend: str, port: int, rank: int, size: int, timeout: timedelta | None, device: torch.device | None
) -> None:
    """The default process group of ranks that all run on this machine."""
    store = make_store(LOOPBACK, port, hosts=rank == 0, one_node=True, timeout=timeout or WAIT)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout, device_id=device)


def _store(first: bool) -> Any:
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    hosted = not torchrun or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    slurm = None if torchrun else SLURMEnvironment()
    address = os.environ["MASTER_ADDR"] if slurm is None else slurm.main_address
    port = int(os.environ["MASTER_PORT"]) if slurm is None else slurm.main_port
    one_node = slurm is not None and int(os.environ.get("SLURM_NNODES", "1")) == 1
    store = make_store(address, port + hosted, hosts=first and hosted, one_node=one_node)
    _stores.append(store)
    return store
