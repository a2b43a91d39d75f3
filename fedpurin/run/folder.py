"""Which folder a run or a sweep without a chosen one gets: named once, by the first process, and free.

Owns: taking the next free name, handing it to the other ranks (torchrun, srun, Fabric's launcher), also a chosen one whose
name the clock makes, taking the folder away again after a mistake. Does not own: what lies in the folder (record.py), any
other chosen `hydra.run.dir`, which every rank knows from its options.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from fedpurin.config import ConfigError
from fedpurin.run.lock import is_first_process, is_locked
from fedpurin.run.resume import holds_run

HANDED = "FEDPURIN_RUN_DIR"
"""Tells the ranks that Fabric's launcher starts by running a script again."""
CLOCK = re.compile(r"(outputs|multirun)/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d")
HOME_VALUE = re.compile(r"""([\w./+@-]+)=(['"]?)(~[\w.-]*(?:/[^'"]*)?)\2""")
PLAIN = re.compile(r"[\w./+@:%-]+")  # what Hydra reads without quotes
SWEEP_FILES = ("multirun.yaml", "overrides.txt")
_made: dict[Path, list[Path]] = {}  # folders of this process's starts, each with the parents that it lacked


def expand_home(arguments: Sequence[str]) -> list[str]:
    """`option=~/path` with the home folder put in, which no shell does there and Hydra's grammar refuses."""
    return [_expand_home(argument) for argument in arguments]


def _expand_home(argument: str) -> str:
    match = HOME_VALUE.fullmatch(argument)
    if match is None:
        return argument
    option, quote, value = match.groups()
    paths = [os.path.expanduser(part) for part in ([value] if quote else value.split(","))]  # a sweep's
    return f"{option}=" + ",".join(paths if option.startswith("--") else map(quoted, paths))


def quoted(path: Path | str) -> str:
    """A path as Hydra reads it in an override."""
    text = str(path)
    return text if PLAIN.fullmatch(text) else "'" + text.replace("'", "\\'") + "'"


def is_default(folder: Path, overrides: Sequence[str], option: str = "hydra.run.dir") -> bool:
    """Whether the clock named this folder, and neither the overrides nor an experiment did."""
    chosen = any(override.lstrip("+").startswith(f"{option}=") for override in overrides)
    return not chosen and CLOCK.fullmatch(folder.as_posix()) is not None


def is_interpolated(overrides: Sequence[str], option: str = "hydra.run.dir") -> bool:
    """Whether a chosen folder's name has parts that each rank would make anew (`${now:...}`), or a file chose it."""
    chosen = [override for override in overrides if override.lstrip("+").startswith(f"{option}=")]
    return not chosen or "${" in chosen[-1]


def as_first(chosen: Path) -> Path:
    """The folder that the first of the ranks which torchrun or srun started has chosen; else one's own."""
    if not _started_externally():
        return chosen
    from fedpurin.exchange import rendezvous

    return Path(rendezvous.from_first_before_group(lambda: str(chosen), first=is_first_process()))


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
        note(free)
        try:
            free.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{free.parent} cannot be made: {error.strerror}") from None
        try:
            free.mkdir()
        except FileExistsError:
            _made.pop(free.absolute(), None)
            continue
        except OSError as error:
            raise ConfigError(f"{free} cannot be made: {error.strerror}") from None
        return free
    raise AssertionError("count does not end")


def note(folder: Path) -> None:
    """Remember what is missing on the way to a folder that is about to be made; nothing where it is there."""
    missing = [part for part in (folder.absolute(), *folder.absolute().parents) if not part.exists()]
    if missing:
        _made[folder.absolute()] = missing


def withdraw(folder: Path, *, keep_files: bool = False) -> None:
    """Take away a folder that this process made for a start which ended in a mistake, and parents that are empty then.

    Stays: a folder that was there before, one with rounds or checkpoints, one in which a process works, and a sweep's
    member, whose refusal `fedpurin sweep status` reads. With `keep_files`, whatever is not empty.
    """
    missing = _made.pop(folder.absolute(), [])
    in_sweep = any((folder.absolute().parent / name).exists() for name in SWEEP_FILES)
    if not missing or in_sweep or holds_run(folder) or is_locked(folder):
        return
    if not keep_files:
        shutil.rmtree(folder, ignore_errors=True)
    for part in missing:
        try:
            part.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return


def _started_externally() -> bool:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"]) > 1
    return "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1
