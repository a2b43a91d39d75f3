"""What a client's loss may look at beside its batch: one context, set by whoever carries out a fit.

Owns: the context and how it is entered. Does not own: what is in it (a method's `LocalFit` says so) nor the losses
that read it (lightning_modules/). It is a context variable, so fits in two threads do not see each other's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class LossContext:
    """`models` are other models by name, each a tensor for every parameter (and buffer) name; `values` all else."""

    models: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    values: Mapping[str, Tensor | float] = field(default_factory=dict)


_NOTHING = LossContext()
_current: ContextVar[LossContext] = ContextVar("loss_context", default=_NOTHING)


def loss_context() -> LossContext:
    """The context of the fit that runs now; empty outside of one."""
    return _current.get()


@contextmanager
def set_loss_context(context: LossContext) -> Iterator[None]:
    """Let losses read this context, and afterwards the one before."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
