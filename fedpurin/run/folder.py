"""Which folder a run without a chosen one gets: named once, by the first process, and free.

Owns: taking the next free name, handing it to the other ranks (torchrun, srun, Fabric's launcher). Does not own: what
lies in the folder (record.py), a chosen `hydra.run.dir`, which every rank knows from its options.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from fedpurin.config import ConfigError
from fedpurin.run.lock import is_first_process

HANDED = "FEDPURIN_RUN_DIR"
"""Tells the ranks that Fabric's launcher starts by running a script again."""
CLOCK = re.compile(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d")
WAIT = timedelta(seconds=300)
_stores: list[Any] = []  # rank 0 may host the store, which has to live while the others read


def is_default(run_dir: Path, overrides: Sequence[str]) -> bool:
    """Whether the clock named this folder, and neither the overrides nor an experiment did."""
    chosen = any(override.lstrip("+").startswith("hydra.run.dir=") for override in overrides)
    return not chosen and CLOCK.fullmatch(run_dir.as_posix()) is not None


def settle(default: Path) -> Path:
    """The run's folder on every rank: `default` on the first process, or the next free name after it."""
    first = is_first_process()
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():  # a script's second run
        names = [str(claim(default)) if first else ""]
        torch.distributed.broadcast_object_list(names)
        return Path(names[0])
    if _started_externally():
        store = _store(first)
        key = f"fedpurin/run_dir/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        if first:
            store.set(key, str(claim(default)))
        return Path(store.get(key).decode())
    if first:
        os.environ[HANDED] = str(claim(default))
    return Path(os.environ.get(HANDED, default))


def claim(path: Path) -> Path:
    """Make the folder, or the first of `path-2`, `path-3`, ... that nobody else has.

    Raises:
        ConfigError: it cannot be made.
    """
    for number in count(1):
        free = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            free.parent.mkdir(parents=True, exist_ok=True)
            free.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"hydra.run.dir={free} cannot be written: {error.strerror}") from None
        return free
    raise AssertionError("count does not end")


def _started_externally() -> bool:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"]) > 1
    return "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1


def _store(first: bool) -> Any:
    """torchrun's own store, or one that the first process hosts on the port after the rendezvous'."""
    from lightning.fabric.plugins.environments import SLURMEnvironment
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    hosted = not torchrun or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    slurm = None if torchrun else SLURMEnvironment()
    address = os.environ["MASTER_ADDR"] if slurm is None else slurm.main_address
    port = int(os.environ["MASTER_PORT"]) if slurm is None else slurm.main_port
    store = TCPStore(address, port + hosted, is_master=first and hosted, wait_for_workers=False, timeout=WAIT)
    _stores.append(store)
    return store
