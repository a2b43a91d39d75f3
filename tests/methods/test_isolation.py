"""Clients see each other's data and tensors through the exchange only, and every method goes on after a resume."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from fedpurin.federation import Federation
from fedpurin.local.client import Client
from fedpurin.run.build import build
from fedpurin.run.compose import config_groups
from tests.methods.tiny import TEST, TRAIN, Tiny, composed

METHODS = config_groups()["method"]


class Fits(lightning.Callback):
    """Copies of what each fit left with its client."""

    def __init__(self) -> None:
        self.left: dict[int, list[list[Tensor]]] = {}

    def on_client_end(self, client: Client) -> None:
        self.left.setdefault(client.id, []).append([tensor.clone() for tensor in tensors_of(client)])


class Halfway(lightning.Callback):
    """What a checkpoint after the second round would hold."""

    def on_round_done(self, federation: Federation, number: int) -> None:
        if number == 1:
            self.clients = copy.deepcopy(federation.clients)
            self.state = copy.deepcopy(federation.method.state_dict())


def tensors_of(client: Client) -> list[Tensor]:
    extra = [value for _, value in sorted(client.extra.items())]
    return [client.vector, *client.buffers.values(), *extra, *([] if client.mask is None else [client.mask])]


def make(
    run_dir: Path, method: str, *, train: TensorDataset = TRAIN, callbacks: Any = (), **trainer: Any
) -> Federation:
    config = composed(method)
    config = replace(config, trainer=replace(config.trainer, **trainer))
    return build(config, run_dir, module=Tiny(), train=train, test=TEST, callbacks=callbacks)


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_does_not_depend_on_the_others(tmp_path: Path, method: str) -> None:
    """The last client to fit in the first round learns the same, bit for bit, whatever the others' images are."""
    listeners = Fits(), Fits()
    federation = make(tmp_path / "a", method, rounds=1, callbacks=[listeners[0]])
    federation.run()
    last = max(federation.clients)
    x, y = (t.clone() for t in TRAIN.tensors)
    others = torch.ones(len(x), dtype=torch.bool)
    others[federation.clients[last].train_indices] = False
    x[others] += torch.randn(x[others].shape, generator=torch.Generator().manual_seed(9))
    make(tmp_path / "b", method, rounds=1, train=TensorDataset(x, y), callbacks=[listeners[1]]).run()
    one, two = (fits.left[last][0] for fits in listeners)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(listeners[0].left[0][0][0], listeners[1].left[0][0][0]), "the others did change"


@pytest.mark.parametrize("method", METHODS)
def test_no_tensor_has_two_owners(tmp_path: Path, method: str) -> None:
    """Clients, the server's state and the live module own their memory; nothing points into somebody else's."""
    federation = make(tmp_path, method, rounds=2, clients_per_round=3)
    federation.run()
    owners: dict[int, str] = {}
    for owner, tensor in owned_tensors(federation):
        pointer = tensor.untyped_storage().data_ptr()
        assert owners.setdefault(pointer, owner) == owner, f"{owner} and {owners[pointer]} share a tensor"


def owned_tensors(federation: Federation) -> Iterator[tuple[str, Tensor]]:
    for client in federation.clients.values():
        yield from ((f"client {client.id}", tensor) for tensor in tensors_of(client))
    yield from (("server", v) for v in federation.method.state_dict().values() if isinstance(v, Tensor))
    for module in federation.trainer.module.modules():
        for value in vars(module).values():
            items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            yield from (("module", item) for item in items if isinstance(item, Tensor))


@pytest.mark.parametrize(
    ("method", "clients_per_round"), [*((m, 2) for m in METHODS), ("ditto", None), ("fedcac", None)]
)
def test_a_method_goes_on_where_it_stopped(tmp_path: Path, method: str, clients_per_round: int | None) -> None:
    """What `state_dict` and the clients hold after two rounds is all that the next two need."""
    kept = Halfway()
    straight = make(tmp_path / "a", method, rounds=4, clients_per_round=clients_per_round, callbacks=[kept])
    straight.run()
    resumed = make(tmp_path / "b", method, rounds=4, clients_per_round=clients_per_round)
    resumed.clients, resumed.first_round = kept.clients, 2
    resumed.method.load_state_dict(kept.state)
    resumed.run()
    for client_id, client in straight.clients.items():
        for a, b in zip(tensors_of(client), tensors_of(resumed.clients[client_id]), strict=True):
            assert torch.equal(a, b)
