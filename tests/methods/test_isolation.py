"""No method lets a client see another's data or tensors but through the exchange, and every method survives a resume."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from fedpurin.build import build
from fedpurin.client import Client
from fedpurin.compose import compose_config, config_groups
from fedpurin.federation import Federation
from tests.methods.tiny import OVERRIDES, TEST, TRAIN, Tiny

METHODS = config_groups()["method"]


class Fits(lightning.Callback):
    """Copies of what each fit left with its client."""

    def __init__(self) -> None:
        self.left: dict[int, list[list[Tensor]]] = {}

    def on_client_end(self, client: Client) -> None:
        self.left.setdefault(client.id, []).append([tensor.clone() for tensor in tensors_of(client)])


def tensors_of(client: Client) -> list[Tensor]:
    extra = [value for _, value in sorted(client.extra.items())]
    return [client.vector, *client.buffers.values(), *extra, *([] if client.mask is None else [client.mask])]


def make(
    run_dir: Path, *overrides: str, train: TensorDataset = TRAIN, callbacks: tuple[lightning.Callback, ...] = ()
) -> Federation:
    config, _ = compose_config([*OVERRIDES, *overrides])
    return build(config, run_dir, module=Tiny(), train=train, test=TEST, callbacks=callbacks)


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_does_not_depend_on_the_others(tmp_path: Path, method: str) -> None:
    """The last client to fit in the first round learns the same, bit for bit, whatever the others' images are."""
    heard = Fits(), Fits()
    federation = make(tmp_path / "a", f"method={method}", "trainer.rounds=1", callbacks=(heard[0],))
    federation.run()
    last = max(federation.clients)
    x, y = (t.clone() for t in TRAIN.tensors)
    others = torch.ones(len(x), dtype=torch.bool)
    others[federation.clients[last].train_indices] = False
    x[others] += torch.randn(x[others].shape, generator=torch.Generator().manual_seed(9))
    make(tmp_path / "b", f"method={method}", "trainer.rounds=1", train=TensorDataset(x, y), callbacks=(heard[1],)).run()
    one, two = (fits.left[last][0] for fits in heard)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(heard[0].left[0][0][0], heard[1].left[0][0][0]), "the others did change"


@pytest.mark.parametrize("method", METHODS)
def test_no_tensor_has_two_owners(tmp_path: Path, method: str) -> None:
    """Clients, the server's state and the live module own their memory; nothing points into somebody else's."""
    federation = make(tmp_path, f"method={method}", "trainer.clients_per_round=3")
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


@pytest.mark.parametrize("part", ["everybody", "half"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_goes_on_where_it_stopped(tmp_path: Path, method: str, part: str) -> None:
    """What `state_dict` and the clients hold after two rounds is all that the next two need."""
    overrides = [f"method={method}"] + (["trainer.clients_per_round=2"] if part == "half" else [])
    straight = make(tmp_path / "straight", *overrides, "trainer.rounds=4")
    straight.run()
    first = make(tmp_path / "first", *overrides, "trainer.rounds=2")
    first.run()
    second = make(tmp_path / "second", *overrides, "trainer.rounds=4")
    second.method.load_state_dict(copy.deepcopy(first.method.state_dict()))
    second.clients, second.first_round = copy.deepcopy(first.clients), 2
    second.run()
    for id, client in straight.clients.items():
        for a, b in zip(tensors_of(client), tensors_of(second.clients[id]), strict=True):
            assert torch.equal(a, b)
