"""What the losses that are mixed into a client's class share: they see its forward pass and add to its loss.

A mixed-in class stands before the client's own in the method resolution order, as torch's `fully_shard` does it. So
parameter names, roles, hooks and checkpoints stay the client's, and any LightningModule will do. A step that returns None
skips its batch (Lightning's rule), whatever is mixed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, grad


def add_to_loss(output: Any, term: Tensor) -> Any:
    """What `training_step` returned, the loss or a mapping with "loss", with `term` added; None stays None."""
    if output is None:
        return None
    return {**output, "loss": output["loss"] + term} if isinstance(output, Mapping) else output + term


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each submodule in the mode that it had."""
    training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True


Step = Callable[..., Any]


class _At(nn.Module):
    """A step of a module in the place of a forward pass, for `functional_call`."""

    def __init__(self, module: nn.Module, step: Step) -> None:
        super().__init__()
        self.module, self._step = module, step

    def forward(self, *arguments: Any) -> Any:
        return self._step(*arguments)


def step_at(module: nn.Module, step: Step, tensors: Mapping[str, Tensor], *arguments: Any) -> Any:
    """What `step` of the module returns with these parameters (and buffers) in the place of its own."""
    return functional_call(_At(module, step), {f"module.{n}": t for n, t in tensors.items()}, arguments)


class _Skipped(Exception):
    """The step skipped its batch."""


def loss_at(module: nn.Module, step: Step, weights: Mapping[str, Tensor], *arguments: Any) -> Tensor | None:
    """The loss with these parameters, on copies of the running statistics: those of the module do not move.

    None where the step skips the batch.
    """
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    output = step_at(module, step, {**weights, **buffers}, *arguments)
    loss: Tensor | None = output["loss"] if isinstance(output, Mapping) else output
    return loss


def gradient_at(
    module: nn.Module, step: Step, weights: Mapping[str, Tensor], *arguments: Any
) -> dict[str, Tensor] | None:
    """The gradient of `loss_at`, without a graph, or None; works inside and outside of `torch.func`'s transforms."""
    fixed = {name: weight.detach() for name, weight in weights.items()}

    def loss_of(free: dict[str, Tensor]) -> Tensor:
        loss = loss_at(module, step, free, *arguments)
        if loss is None:  # a transform takes no None
            raise _Skipped
        return loss

    try:
        return dict(grad(loss_of)(fixed))
    except _Skipped:
        return None
