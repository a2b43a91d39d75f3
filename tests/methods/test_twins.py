"""Every method agrees with its loop-by-loop twin (naive.py) over two rounds: parameters and running statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedpurin.federation import Federation
from fedpurin.local.client import Client
from fedpurin.seeding import numpy_generator
from tests.methods import naive, naive_more, naive_sparse
from tests.methods.tiny import CLIENTS, ROUNDS, TRAIN, Tiny, simulate

Step = Callable[[list[naive.Peer], int], None]

UNEQUAL = ["partition.volume.name=lognormal", "partition.volume.sigma=0.5", "partition.volume.floor=10"]
TWINS: dict[str, Step] = {
    "local": naive.local,
    "fedavg": naive.fedavg,
    "fedper": naive.fedper,
    "fedrep": naive.fedrep,
    "fedbn": naive.fedbn,
    "fedcac": naive.fedcac,
    "fedprox": naive.fedprox,
    "ditto": naive.ditto,
    "pfedsd": naive.pfedsd,
    "fedrod": naive.fedrod,
    "topk": naive_sparse.topk,
    "fedbabu": naive_more.fedbabu,
    "scaffold": naive_more.scaffold,
    "fedspa": naive_sparse.fedspa,
    "dispfl": naive_sparse.dispfl,
    "sparsyfed": naive_sparse.sparsyfed,
    "fedproto": naive_more.fedproto,
    "fedpac": naive_more.fedpac,
    "sub_fedavg": naive_sparse.sub_fedavg,
    "lotteryfl": naive_sparse.lotteryfl,
    "fedselect": naive_sparse.fedselect,
    "fedala": naive_more.fedala,
    "apfl": naive_more.apfl,
    "fedamp": naive_more.fedamp,
    "per_fedavg": naive_more.per_fedavg,
    "pfedme": naive_more.pfedme,
    "stc": naive_sparse.stc,
    "fedpaq": naive_sparse.fedpaq,
    "fedpurin_feedback": naive_sparse.fedpurin_feedback,
}

# Where the defaults differ too little from FedAvg to test a formula, or the horizon is too far.
OPTIONS = {
    "per_fedavg": ["method.alpha=0.05"], "fedamp": ["method.sigma=4"],
    "sub_fedavg": ["method.rate=0.2", "method.accuracy=0", "method.distance=0.01"],
    "lotteryfl": ["method.rate=0.2", "method.accuracy=0"], "fedselect": ["method.rate=0.2"],
    "fedcac": ["method.beta=3"], "fedprox": ["method.mu=1"], "pfedsd": ["method.temperature=3"],
    "dispfl": ["method.neighbours=2"], "sparsyfed": ["method.density=0.5"], "topk": ["method.density=0.2"],
    "fedpurin_feedback": ["method.density=0.2", "method.download=0.2", "method.personal=0.9"],
    "stc": ["method.density=0.2"], "fedpaq": ["method.bits=4"],
}  # fmt: skip


def peers_of(federation: Federation) -> dict[int, naive.Peer]:
    clients = federation.clients
    x, y = TRAIN.tensors
    return {i: naive.Peer(i, x[c.train_indices], y[c.train_indices], Tiny()) for i, c in clients.items()}


def check_equal(federation: Federation, client: Client, peer: naive.Peer) -> None:
    expected = naive.parameters(peer.net)
    if "personal_head.weight" in (mine := federation.trainer.space.views(client.vector)):
        assert peer.second is not None
        expected |= {f"personal_head.{name}": value for name, value in naive.parameters(peer.second).items()}
    if "personal.alpha" in mine:
        assert peer.second is not None
        expected |= {f"personal.{name.replace('.', '/')}": p for name, p in naive.parameters(peer.second).items()}
        expected |= {"personal.alpha": peer.kept["alpha"]}
    mine |= {name: buffer for name, buffer in client.buffers.items() if not name.startswith("prototype_")}
    if "prototypes" in client.extra:
        for label, mean in peer.named.items():
            torch.testing.assert_close(client.extra["prototypes"][int(label)], mean, rtol=0, atol=1e-6)
    expected |= dict(peer.net.named_buffers())
    assert mine.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(mine[name], value, rtol=0, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")
    for name, kept in client.extra.items():
        if name in ("kept", "personal") and peer.named:
            wanted = torch.cat([mask.flatten() for mask in peer.named.values()])
            found = federation.trainer.space.layout.extract(kept)
            assert torch.equal(found, wanted if name == "kept" else 1 - wanted), name
    for name in client.extra.keys() & peer.kept.keys():
        kept = federation.trainer.space.layout.extract(client.extra[name])
        torch.testing.assert_close(kept, peer.kept[name], rtol=0, atol=1e-6)
    if "global" in client.extra:
        assert peer.second is not None
        for name, value in naive.parameters(peer.second).items():
            copy = federation.trainer.space.views(client.extra["global"])[name]
            torch.testing.assert_close(copy, value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", TWINS)
def test_everybody_takes_part(tmp_path: Path, method: str) -> None:
    federation = simulate(tmp_path, f"method={method}", *UNEQUAL, *OPTIONS.get(method, [])).federation
    peers = peers_of(federation)
    assert len({len(peer.x) for peer in peers.values()}) > 1, "sizes must differ, or weights go untested"
    for round_number in range(ROUNDS):
        TWINS[method](list(peers.values()), round_number)
    for client_id, peer in peers.items():
        check_equal(federation, federation.clients[client_id], peer)


@pytest.mark.parametrize("method", ["fedavg", "fedper", "fedcac"])
def test_half_of_them_take_part(tmp_path: Path, method: str) -> None:
    """Who takes part starts from the newest mean; who does not keeps what it had."""
    rounds, beta = 4, ["method.beta=3"] if method == "fedcac" else []
    overrides = [f"method={method}", f"trainer.rounds={rounds}", "trainer.clients_per_round=2", *UNEQUAL, *beta]
    federation = simulate(tmp_path, *overrides).federation
    peers = peers_of(federation)
    newest: dict[str, torch.Tensor] = {}
    shared = {"fedavg": lambda name: True, "fedper": lambda name: not naive.is_head(name)}
    for round_number in range(rounds):
        draw = numpy_generator(0, "participants", round_number=round_number).choice(CLIENTS, size=2, replace=False)
        chosen = [peers[client_id] for client_id in sorted(draw)]
        for peer in chosen if newest else []:
            naive.assign(peer.net, newest, shared[method])
        TWINS[method](chosen, round_number)
        newest = naive.parameters(chosen[0].net) if method in shared else {}
    for client_id, peer in peers.items():
        check_equal(federation, federation.clients[client_id], peer)


def test_the_twins_are_not_each_other() -> None:
    """The tests above would prove little if the methods hardly differed on this federation."""
    results = {}
    for method, step in TWINS.items():
        peers = [
            naive.Peer(i, *(t[20 * i : 20 * i + 20 - i] for t in TRAIN.tensors), copy.deepcopy(Tiny()))
            for i in range(4)
        ]
        for round_number in range(ROUNDS):
            step(peers, round_number)
        results[method] = torch.cat([p.flatten() for p in naive.parameters(peers[0].net).values()])
    for one in results:
        for other in results:
            assert one == other or (results[one] - results[other]).abs().max() > 1e-3
