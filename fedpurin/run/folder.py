"""Which folder a run without a chosen one gets: named once, by the first process, and free.

Owns: taking the next free name, handing it to the other ranks (torchrun, srun, Fabric's launcher). Does not own: what
lies in the folder (record.py), a chosen `hydra.run.dir`, which every rank knows from its options.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from fedpurin.config import ConfigError
from fedpurin.run.lock import is_first_process

HANDED = "FEDPURIN_RUN_DIR"
"""Tells the ranks that Fabric's launcher starts by running a script again."""
CLOCK = re.compile(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d")


def is_default(run_dir: Path, overrides: Sequence[str]) -> bool:
    """Whether the clock named this folder, and neither the overrides nor an experiment did."""
    chosen = any(override.lstrip("+").startswith("hydra.run.dir=") for override in overrides)
    return not chosen and CLOCK.fullmatch(run_dir.as_posix()) is not None


def settle(default: Path) -> Path:
    """The run's folder on every rank: `default` on the first process, or the next free name after it."""
    first = is_first_process()
    external = _started_externally()
    if external or "torch" in sys.modules:  # without torch, the process cannot be in a group
        from fedpurin.exchange import rendezvous

        if rendezvous.has_group():  # a script's second run
            return Path(rendezvous.from_first(lambda: str(claim(default))))
        if external:
            return Path(rendezvous.from_first_before_group(lambda: str(claim(default)), first=first))
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
