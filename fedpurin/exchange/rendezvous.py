"""One text from the first process to all ranks of a start, before Fabric has made the process group, or over it.

Owns: torchrun's store, or one that the first process hosts beside the rendezvous of an srun step. Does not own: what
the text says (run/folder.py), the process group itself (processes.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from torch.distributed import distributed_c10d

WAIT = timedelta(seconds=300)
_asked = count()
_stores: list[Any] = []  # rank 0 may host the store, which has to live while the others read


def has_group() -> bool:
    """Whether this process belongs to a process group already, as in a script's second run."""
    return dist.is_available() and dist.is_initialized()


def from_first(name: Callable[[], str]) -> str:
    """What `name` returns on rank 0 of the process group; the other ranks do not call it."""
    store = distributed_c10d._get_default_store()
    key = f"fedpurin/first/{next(_asked)}"
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


def _store(first: bool) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    hosted = not torchrun or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    slurm = None if torchrun else SLURMEnvironment()
    address = os.environ["MASTER_ADDR"] if slurm is None else slurm.main_address
    port = int(os.environ["MASTER_PORT"]) if slurm is None else slurm.main_port
    store = TCPStore(address, port + hosted, is_master=first and hosted, wait_for_workers=False, timeout=WAIT)
    _stores.append(store)
    return store
