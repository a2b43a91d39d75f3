"""A client that diverges keeps its last good state under every method, whatever its earlier fits of the round left."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

import fedpurin
from fedpurin.federation import Federation
from fedpurin.local.client import Client, Diverged
from fedpurin.methods import Round
from fedpurin.run.build import build
from fedpurin.run.compose import config_groups
from tests.methods.tiny import TEST, TRAIN, Tiny, composed

METHODS = config_groups()["method"]
POISONED = 1


def state_of(client: Client) -> dict[str, Tensor]:
    mask = {} if client.mask is None else {"mask": client.mask}
    named = {"vector": client.vector, **client.buffers, **client.extra, **mask}
    return {name: tensor.clone() for name, tensor in named.items()} | {
        "counts": torch.tensor([client.epochs, client.steps]),
    }


class Poison(lightning.Callback):
    """Lets one client's last fit of the second round diverge, and copies its state before and after."""

    def __init__(self) -> None:
        self.states: dict[str, dict[str, Tensor]] = {}

    def on_run_start(self, federation: Federation) -> None:
        method: Any = federation.method
        begin = method.begin

        def watched(this_round: Round, *arguments: Any) -> None:
            begin(this_round, *arguments)
            if this_round.number == 1:
                self.states["begun"] = state_of(federation.clients[POISONED])

        object.__setattr__(method, "begin", watched)  # some methods are frozen

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.client.id == POISONED and trainer.round_number == 1:
            raise Diverged("poisoned")

    def on_round_done(self, federation: Federation, number: int) -> None:
        self.states[f"round {number}"] = state_of(federation.clients[POISONED])
        self.server = copy.deepcopy(federation.method.state_dict()) if number == 1 else {}


def run(run_dir: Path, method: str, executor: str) -> tuple[Poison, Federation]:
    config, poison = composed(method), Poison()
    trainer = replace(config.trainer, executor=executor, local_epochs=1)
    federation = build(
        replace(config, trainer=trainer), run_dir, module=Tiny(), train=TRAIN, test=TEST, callbacks=[poison]
    )
    federation.run()
    return poison, federation


@pytest.mark.parametrize(
    ("method", "executor"),
    [*((m, "serial") for m in METHODS), *((m, "cohort") for m in ("fedrep", "fedala", "fedpm", "sparsyfed"))],
)
def test_the_last_good_state_is_kept(tmp_path: Path, method: str, executor: str) -> None:
    poison, federation = run(tmp_path, method, executor)
    assert federation.history[1]["clients/diverged"] == 1
    # During a round these two keep scores, or v, in the vector; between rounds it is a model.
    good = "round 0" if method in ("fedpm", "sparsyfed") else "begun"
    expected, found = poison.states[good], poison.states["round 1"]
    assert found.keys() == expected.keys()
    if federation.method.needs_masks:  # the program of a mask may be under way when another callback objects
        expected.pop("mask", None)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_fedpm_counts_who_was_drawn(tmp_path: Path) -> None:
    """All four are drawn, so α and β start again every round: after the second, 1 + 1 and the three masks that came."""
    poison, _ = run(tmp_path, "fedpm", "serial")
    alpha, beta = poison.server["alpha"], poison.server["beta"]
    assert set((alpha + beta).tolist()) == {5.0}


def test_a_ticket_that_diverges_is_not_drawn(tmp_path: Path) -> None:
    """With `accuracy: 0` everybody prunes in the second round; whoever diverges then is as it was: whole, not rewound."""
    config, poison = composed("lotteryfl"), Poison()
    config = replace(config, method={**config.method, "accuracy": 0})
    federation = build(config, tmp_path, module=Tiny(), train=TRAIN, test=TEST, callbacks=[poison])
    federation.run()
    begun, found = poison.states["begun"], poison.states["round 1"]
    assert bool(found["kept"].all())
    assert torch.equal(found["vector"], begun["vector"])
    others = [client.extra["kept"] for client in federation.clients.values() if client.id != POISONED]
    assert all(0 < float((kept == 0).float().mean()) < 0.11 for kept in others)


def test_features_beyond_float32_are_named_and_not_sent(tmp_path: Path) -> None:
    federation = build(composed("fedpac"), tmp_path, module=Tiny(), train=TRAIN, test=TEST, callbacks=())
    client = federation.clients[0]
    _, body, _ = federation.method.plan(client, 0)
    client.buffers["prototype_counts"].fill_(1)
    client.buffers["prototype_squares"].fill_(torch.inf)
    with pytest.raises(fedpurin.ConfigError, match=r"method=FedPAC .* client 0's are beyond float32"):
        body.prepare(client)
