"""`trainer.init=per_client`: what a client keeps to itself starts from a draw of its own; what is shared, from one for all.

Published codes often build each client's model with other random numbers, so that heads that are never sent start apart.
Owns: the client's private part of a new model, from the stream (seed, "weights", client). Does not own: the common start
(build.py), buffers, which start equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from lightning import LightningModule
from torch import nn

from fedpurin.config import ConfigError
from fedpurin.local.client import Client
from fedpurin.methods import Method
from fedpurin.seeding import seed_global
from fedpurin.space import ParameterSpace, Segment

Build = Callable[[], LightningModule]
"""Makes a client's module anew, from torch's global generator."""


class PrivateStart:
    """Puts a client's own first weights into the private part of its vector. A start from checkpoints overwrites them."""

    def __init__(self, build: Build, private: Sequence[Segment], seed: int) -> None:
        self.build, self.private, self.seed = build, private, seed

    def give(self, client: Client) -> None:
        """The same weights for a client wherever it lives, whatever others there are."""
        if not self.private:
            return
        with torch.random.fork_rng(devices=[]):
            seed_global(self.seed, "weights", client=client.id)
            parameters = dict(self.build().named_parameters())
        for segment in self.private:
            client.vector[segment.slice] = parameters[segment.name].detach().flatten().to(client.vector.device)


def private_segments(space: ParameterSpace, method: Method) -> tuple[Segment, ...]:
    """What no other client ever sees: the part that is not shared, or all of it where models are never sent."""
    return space.layout.segments[0 if method.keeps_models else len(space.shared) :]


def drawn_anew(module: nn.Module) -> None:
    """Have every layer of a module that was handed over draw its weights again, as layers do when they are made."""
    for part in module.modules():
        if part is not module and callable(reset := getattr(part, "reset_parameters", None)):
            reset()


def check_can_be_drawn(module: LightningModule, private: Sequence[Segment]) -> None:
    """See that every private parameter belongs to a layer that can draw it again.

    Raises:
        ConfigError: names one that does not.
    """
    for segment in private:
        owner = module.get_submodule(segment.name.rpartition(".")[0])
        if owner is module or not callable(getattr(owner, "reset_parameters", None)):
            raise ConfigError(
                f"trainer.init=per_client: {segment.name} belongs to a {type(owner).__name__}, which has no "
                "reset_parameters to draw it by; give it one, or name the module by model._target_, which builds it anew"
            )
