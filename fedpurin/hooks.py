"""What listens to a run: the base class with every hook that the loop calls, and what a hook gets to see.

A hook takes the arguments that it names, any of those of its declaration here. A subclass with an `on_…` that is no
hook, or with an argument that the hook does not have, is an error when the class is made: a hook that nobody calls
would fail in silence. Lightning's own hooks (`on_fit_end`, …) keep their meaning for each client's fit.

Owns: the hooks' names, order and arguments. Does not own: when they are called (`federation.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning

from fedpurin.config import Config

Row = dict[str, Any]
"""Columns by name: of a round in `metrics.jsonl`, or of a client and round in `clients.csv`."""


@runtime_checkable
class Run(Protocol):
    """The run that a hook belongs to, on this rank: `fedpurin.federation.Federation`."""

    @property
    def config(self) -> Config: ...
    @property
    def run_dir(self) -> Path: ...
    @property
    def first_round(self) -> int: ...
    @property
    def history(self) -> Sequence[Row]: ...
    @property
    def clients(self) -> Mapping[int, Any]: ...
    @property
    def method(self) -> Any: ...
    @property
    def trainer(self) -> Any: ...
    @property
    def exchange(self) -> Any: ...
    @property
    def processes(self) -> Any: ...


@runtime_checkable
class Participants(Protocol):
    """Who takes part in a round: `fedpurin.methods.Round`."""

    @property
    def number(self) -> int: ...
    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def clients(self) -> Sequence[Any]: ...


@runtime_checkable
class MaskProvider(Protocol):
    """Turns the scores of a round's fits into masks (docs/method.md, steps 2 and 3)."""

    def solve_masks(self) -> None:
        """Solve what is not solved yet: afterwards every client that was fitted has its mask."""


class StackListener(Protocol):
    """A callback that has its `on_fit_end` for many clients at once too, defined in the same class.

    Where clients are fitted as one computation, they then need not become the live model one by one.
    """

    def fits_ended(self, trainer: Any, clients: Sequence[Any], vectors: Any, gradients: Any) -> Sequence[str | None]:
        """Clients with their fitted vectors and last gradients, [clients, length]; why any of them is left out."""


class RunCallback(lightning.Callback):
    """Base of what listens to a run. Every hook does nothing here; rank 0 alone calls the two marked so."""

    def on_run_start(self, federation: Run) -> None:
        """Before the first round, or the first that a resumed run has left."""

    def on_round_start(self, federation: Run, this_round: Participants) -> None:
        """Before local training, with everybody who was drawn."""

    def on_client_end(self, federation: Run, client: Any) -> None:
        """A client has been fitted and its personalised model evaluated; its mask may not be solved yet."""

    def on_round_fits_end(self, federation: Run) -> None:
        """All of this rank's participants are fitted and have their masks."""

    def on_client_rows(self, federation: Run, rows: list[Row]) -> None:
        """This rank's rows of the round, to which columns may be added."""

    def on_round_columns(self, federation: Run, record: Row, rows: Sequence[Row]) -> None:
        """Rank 0: the round's record and all rows, before anything is written; columns may be added to the record."""

    def on_round_end(self, federation: Run, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """Rank 0: the round is complete."""

    def on_round_done(self, federation: Run, number: int) -> None:
        """Every rank, after the record: what a checkpoint sees."""

    def on_run_end(self, federation: Run) -> None:
        """All rounds are done."""

    def on_run_failed(self, federation: Run, error: BaseException) -> None:
        """The run ends with this error."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name, value in vars(cls).items():
            if name.startswith("on_") and callable(value):
                _check(cls, name, value)


def _check(cls: type, name: str, function: Any) -> None:
    declared = getattr(RunCallback, name, None)
    if declared is None:
        hooks = [hook for hook in dir(RunCallback) if hook.startswith("on_")]
        close = get_close_matches(name, hooks, n=1)
        raise TypeError(f"{cls.__name__}.{name} is no hook of a run" + (f"; did you mean {close[0]}?" if close else ""))
    if name not in vars(RunCallback):
        return  # Lightning's own
    allowed = inspect.signature(declared).parameters
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in allowed and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            raise TypeError(
                f"{cls.__name__}.{name} has no argument {parameter.name!r}; there are {', '.join(list(allowed)[1:])}"
            )
