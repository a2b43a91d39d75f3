"""A client's persistent state, and how a local fit of it went.

Owns: what a client keeps between rounds. Does not own: how it is trained (`trainer.py`), which rank holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from fedpurin.local.fit import MODEL, LocalFit


class Diverged(ArithmeticError):
    """Something of the fit is not finite; a callback raises it from `on_fit_end` to have the client left out."""


@dataclass
class Client:
    """What one client keeps from round to round. Only its owner rank holds it.

    `vector` is the client's personalised model in the order of the parameter space; `buffers` are its running
    statistics; `class_counts` are its training samples by class, where labels are classes; `mask` is the packed
    critical-parameter mask of its last fit; `extra` holds vectors that a method keeps per client (Ditto's second
    model, pFedSD's teacher); `metrics` are its latest measured values; `personal_buffers` are the running statistics of a fit
    that started from its model for an evaluation alone; `reach` is how far its last fit that was to
    measure it would have come with gradients of one (`reach.py`); `epochs` and `steps` count its fits
    so far.
    """

    id: int
    vector: Float32[Tensor, " length"]
    buffers: dict[str, Tensor]
    train_indices: Int64[Tensor, " num_train"]
    test_indices: Int64[Tensor, " num_test"]
    mask: UInt8[Tensor, " packed"] | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    class_counts: Int64[Tensor, " classes"] | None = None
    reach: float = 0.0
    personal_buffers: dict[str, Tensor] = field(default_factory=dict)
    epochs: int = 0
    steps: int = 0

    @property
    def num_train(self) -> int:
        return len(self.train_indices)

    def as_evaluated(self, variant: str) -> Client:
        """The client with the running statistics that belong to a variant of its model."""
        has_own = variant == "personalized" and self.personal_buffers
        return replace(self, buffers=self.personal_buffers) if has_own else self

    def vector_named(self, name: str) -> Float32[Tensor, ...]:
        """Its own model (`MODEL`), or one of `extra`."""
        return self.vector if name == MODEL else self.extra[name]

    def store(self, name: str, vector: Float32[Tensor, ...]) -> None:
        """Copy a vector into the one of that name, which is made where it does not exist."""
        if name != MODEL and name not in self.extra:
            self.extra[name] = vector.clone()
        else:
            self.vector_named(name).copy_(vector)

    def keep(self, fit: LocalFit, vector: Float32[Tensor, " length"], buffers: Mapping[str, Tensor]) -> None:
        """Store a fitted model where the fit wants it, and the running statistics that the client's own model moved."""
        for name in fit.keep:
            self.store(name, vector)
        if fit.start == MODEL and MODEL in fit.keep:
            for name, buffer in self.buffers.items():
                buffer.copy_(buffers[name])
        elif fit.start == MODEL:
            self.personal_buffers = {name: buffers[name].clone() for name in self.buffers}

    def snapshot(self) -> Client:
        """A copy for `restore`, of all that planning and fitting may change."""
        return replace(
            self,
            vector=self.vector.clone(),
            buffers={name: buffer.clone() for name, buffer in self.buffers.items()},
            extra={name: tensor.clone() for name, tensor in self.extra.items()},
        )

    def restore(self, earlier: Client) -> None:
        """Be again what the client was at the snapshot."""
        self.vector.copy_(earlier.vector)
        for name, buffer in self.buffers.items():
            buffer.copy_(earlier.buffers[name])
        # The rest is replaced, never written in place.
        self.extra, self.personal_buffers, self.mask = earlier.extra, earlier.personal_buffers, earlier.mask
        self.reach, self.epochs, self.steps = earlier.reach, earlier.epochs, earlier.steps

    def count(self, epochs: int, steps: int) -> None:
        """Add a fit that was kept to the epochs and optimizer steps so far."""
        self.epochs += epochs
        self.steps += steps


@dataclass(frozen=True)
class FitResult:
    """How a local fit went. `diverged` names what was not finite; the client then kept its last good state."""

    loss: float
    seconds: float
    num_steps: int
    diverged: str | None = None

    def then(self, later: FitResult) -> FitResult:
        """Both fits of a client that fits twice in a round; the loss is that of the later one that took a step."""
        loss = later.loss if later.num_steps or later.diverged else self.loss
        return FitResult(
            loss, self.seconds + later.seconds, self.num_steps + later.num_steps, self.diverged or later.diverged
        )
