"""`LocalFit`: one local fit of one client, as data. A method returns it; an executor carries it out.

Owns: what can be said of a fit. Does not own: the steps (`trainer.py`), the loss (lightning_modules/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from fedpurin.space import Segment

MODEL = "model"
"""Name of the client's own vector; every other name is one of `Client.extra`."""


@dataclass(frozen=True, kw_only=True)
class LocalFit:
    """SGD on the client's own data (METHOD step 1), from one of its vectors, kept in one or more of them."""

    start: str = MODEL
    """The vector that the fit starts from. Only a fit of `MODEL` also keeps the running statistics that it moved."""
    keep: tuple[str, ...] = (MODEL,)
    """The vectors that hold the fitted model afterwards, unless the fit diverged."""
    trains: Callable[[Segment], bool] | None = None
    """Which segments may change; None: all."""
    update_mask: Bool[Tensor, " length"] | None = None
    """Which elements may change; None: all of the segments that `trains` lets through. The others are put back after
    every step, whatever momentum or weight decay did to them."""
    epochs: int | None = None
    """None takes `trainer.local_epochs`."""
    lr: float | None = None
    """Plain SGD of this learning rate; None takes the module's own optimizer."""
    bounds: Callable[[Segment], tuple[float, float] | None] | None = None
    """Between which values a segment's elements are held after every step; None: not at all."""
    prepare: Callable[[Any], None] | None = None
    """Called with the client right before the fit, say to compute its start from what an earlier fit of the round left."""
    purpose: str = "fit"
    """Names the random streams, so that a client's second fit in a round draws its own order."""
    models: Mapping[str, Tensor] = field(default_factory=dict)
    """Other models that the loss looks at, as flat vectors; the loss finds them by name in `loss_context().models`."""
    values: Mapping[str, Tensor | float] = field(default_factory=dict)
    """Whatever else the loss needs of this client, in `loss_context().values`."""
    keeps_gradient: bool = False
    """Whether to leave the last mini-batch's gradient of the shared parameters in `extra["gradient"]`."""
    measures_reach: bool = False
    """Whether to leave `Client.reach` behind (`reach.py`)."""
    probes: bool = False
    """Whether to take no step: the loss sees each sample once, in order, in evaluation mode and without a gradient. For
    what a mixed-in loss computes of the data at this vector, into buffers or `values`; the model stays as it is."""
    scored: bool = True
    """Whether this is the fit whose model is measured, scored and masked; `on_fit_end` is called for no other."""
