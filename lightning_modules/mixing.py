"""What the losses that are mixed into a client's class share: they see its forward pass and add to its loss.

A mixed-in class stands before the client's own in the method resolution order, as torch's `fully_shard` does it. So
parameter names, roles, hooks and checkpoints stay the client's, and any LightningModule will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def add_to_loss(output: Any, term: Tensor) -> Any:
    """What `training_step` returned, the loss or a mapping with "loss", with `term` added."""
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
