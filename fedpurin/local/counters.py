"""What a module can ask of the time: `self.current_epoch`, `self.global_step`, and `self.round`.

`current_epoch` and `global_step` count the epochs and optimizer steps of this client so far, over all of its fits and
rounds (a method that fits twice a round counts both), as if a Trainer of its own had gone on; `round` is the round's
number from 0. A fit that diverged is not counted, because the client does not keep it. Owns: these names on the
module's class. Does not own: the counts, which `Client` keeps and `trainer.py` moves on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning import LightningModule

from fedpurin.local.hooks import LIBRARIES, lightning_parts

ATTRIBUTE = "_client_counters"
NAMES = ("current_epoch", "global_step", "round")


@dataclass
class Counters:
    """The counts that the live module shows."""

    current_epoch: int = 0
    global_step: int = 0
    round: int = 0
    together: bool = False
    """Several clients are in one computation: then there is no one epoch and no one step."""
    round_was_read: bool = False
    """The module depends on the number of the round."""
    recorded: bool = False
    """The computation is kept and replayed in later rounds."""

    @contextmanager
    def of_many(self) -> Iterator[None]:
        """While this lasts, reading what clients do not have in common raises TypeError."""
        self.together = True
        try:
            yield
        finally:
            self.together = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """While this lasts, reading the round raises TypeError: a replay would see the number of this round."""
        self.recorded = True
        try:
            yield
        finally:
            self.recorded = False


class _Counter:
    """Reads one count. An attribute of the same name that the user sets on the module comes first."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        if module is None:
            return self
        counters = vars(module).get(ATTRIBUTE)
        if counters is None:
            return 0
        if counters.together and self.name != "round":
            raise TypeError(f"it reads {self.name}, which clients that run together do not have in common")
        if counters.recorded and self.name == "round":
            raise TypeError("it reads round, which a recorded step holds fixed")
        counters.round_was_read |= self.name == "round"
        return getattr(counters, self.name)


def counting(own: type[LightningModule]) -> dict[str, Any]:
    """What a subclass of this class gets for the counts: every name that the class does not define by itself."""
    return {name: _Counter(name) for name in NAMES if not _defines(own, name)}


def counters_of(module: LightningModule) -> Counters:
    """The module's counts, made where it has none yet; LightningModules inside it have the same."""
    counters: Counters = vars(module).setdefault(ATTRIBUTE, Counters())
    for part in lightning_parts(module):
        vars(part)[ATTRIBUTE] = counters
    return counters


def _defines(own: type, name: str) -> bool:
    owner = next((base for base in own.__mro__ if name in vars(base)), None)
    return owner is not None and not f"{owner.__module__}.".startswith(LIBRARIES)
