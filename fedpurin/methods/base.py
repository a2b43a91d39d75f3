"""The hooks of a federated method, and what a round shows to them.

A method owns no loop (`federation.py` has the only one). It says which tensors it shares, how a client fits, and
what the clients do together when all have fitted. Everything it may override has a default here, so a method
file holds the method's own equations and nothing else. It never sees another client's tensors: clients meet in
`Exchange`, as encoded updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import hydra
from jaxtyping import UInt8
from lightning import LightningModule
from pydantic import ConfigDict
from torch import Tensor

from fedpurin.config import ConfigError
from fedpurin.exchange import Exchange
from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.overlap import Collaboration
from fedpurin.space import Layout, ParameterSpace, Roles, Segment

OPTIONS = ConfigDict(extra="forbid")
"""For `@dataclass(kw_only=True, config=OPTIONS)` of a method: unknown options are errors."""


@dataclass(frozen=True)
class Round:
    """One round as a method sees it: what everybody knows, and this rank's own participants.

    `ids` are all participants, ascending; `num_train` their sample counts (the weights s_i), on every rank.
    `clients` are those of them that live on this rank, ascending by id. `num_clients` counts the federation. `seed` is
    the run's, for what a method draws at random (`seeding.torch_generator`).
    """

    number: int
    num_clients: int
    ids: tuple[int, ...]
    num_train: Mapping[int, int]
    clients: Sequence[Client]
    seed: int = 0

    @property
    def vectors(self) -> dict[int, Tensor]:
        """This rank's participants' models; the shared part is the prefix of each."""
        return {client.id: client.vector for client in self.clients}

    @property
    def masks(self) -> dict[int, UInt8[Tensor, " packed"]]:
        """This rank's participants' packed masks of critical parameters."""
        return {client.id: client.mask for client in self.clients if client.mask is not None}


class Method:
    """Base of every method. Subclasses are keyword-only dataclasses: their fields are the method's options."""

    keeps_models: ClassVar[bool] = False
    """True for a method whose clients send no parameter: all of a model is private (`trainer.init`)."""
    needs_classes: ClassVar[bool] = False
    """True for a method whose loss reads class numbers from batches (x, y)."""
    needs_masks: ClassVar[bool] = False
    """True for a method that exchanges masks: it then asks for the mask-selection callback."""

    def shares(self, segment: Segment) -> bool:
        """Whether this tensor takes part in the exchange. The default shares all."""
        return True

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        """Give the clients another loss or further layers, say with `mix_in`. The default leaves the module."""
        return module

    def check(self, space: ParameterSpace, num_participants: int) -> None:
        """Raise ConfigError where the model, or the number of clients in a round, does not allow this method."""

    def begin(self, this_round: Round, exchange: Exchange, shared: Layout) -> None:
        """Before local training: bring the participants' models up to date where the method requires it."""

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        """The client's local fits of this round, as data, in order. The default is one fit of all parameters.

        It is called right before they are carried out. Where there are several, one is `scored`: the last.
        """
        return (LocalFit(),)

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        """After local training: exchange, aggregate, merge in place. Returns metrics of the round to record."""
        return {}

    def collaboration(self) -> Collaboration | None:
        """By which rule its masks settle who collaborates, for statistics and report. The default: by none."""
        return None

    def sit_out(self, client: Client) -> None:
        """The client diverged and is again as `begin` left it: give it the form that models have between rounds."""

    def personalized(self, client: Client) -> Tensor:
        """The client's own model after its fits: the vector that `accuracy/personalized` measures."""
        return client.vector

    def merged(self, client: Client) -> Tensor:
        """What the exchange made of the client's model: the vector that `accuracy/merged` measures."""
        return client.vector

    def state_dict(self) -> dict[str, Any]:
        """What the server side keeps between rounds, for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""


def mix_in(target: str, module: LightningModule) -> Any:
    """Put the class that `target` names before the module's own, in place, as torch's `fully_shard` does.

    For losses that clients train with: the engine imports none, and the module keeps its parameters' names, roles and
    hooks. lightning_modules/ has them, a file each.
    """
    mixin, own = hydra.utils.get_class(target), type(module)
    if not issubclass(own, mixin):
        module.__class__ = type(f"{mixin.__name__}{own.__name__}", (mixin, own), {})
    return module


def require_free(method: Method, module: LightningModule, name: str) -> None:
    """Raise ConfigError where the client's module has an attribute that the method would overwrite."""
    if hasattr(module, name):
        raise ConfigError(
            f"method={type(method).__name__} gives the clients' module an attribute {name!r}, and "
            f"{type(module).__name__} has one of its own: rename it"
        )


def require_head(method: Method, space: ParameterSpace) -> None:
    """Raise ConfigError unless the model has a head, and something besides."""
    heads = sum(segment.is_head for segment in space.layout)
    if not 0 < heads < len(space.layout):
        raise ConfigError(
            f"method={type(method).__name__} tells the head from the body, and this model "
            f"{'is all head' if heads else 'has no linear layer'}: name the head's module with roles.head"
        )
