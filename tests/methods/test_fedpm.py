"""FedPM on numbers worked out by hand: what goes up, the posterior, what comes down, and what a client's model is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedpurin.config import ConfigError, ExchangeConfig
from fedpurin.exchange import Exchange, Ledger, Processes
from fedpurin.federation import Federation
from fedpurin.local.client import Client
from fedpurin.methods import FedPM, Round
from fedpurin.seeding import seed_global, torch_generator
from fedpurin.space import Layout, Segment
from tests.methods.tiny import BATCH, EPOCHS, ROUNDS, TRAIN, Tiny, simulate

NONE = torch.empty(0, dtype=torch.int64)
SURE = 40.0


def layout() -> Layout:
    """Two weights of one output with fan-in two, and a bias."""
    return Layout.from_segments(
        [
            Segment("w", 0, 2, (1, 2), is_norm=False, is_head=False),
            Segment("b", 0, 1, (1,), is_norm=False, is_head=False),
        ]
    )


class Play:
    """Rounds of two clients of four, with scores that are as good as masks."""

    def __init__(self, shared: Layout) -> None:
        self.shared, self.method, self.ledger = shared, FedPM(epsilon=0.25), Ledger()
        self.exchange = Exchange(ExchangeConfig(), shared, Processes(), self.ledger)
        self.vector = torch.zeros(shared.length)
        self.w, self.b = (segment.slice for segment in shared)
        self.vector[self.w], self.vector[self.b] = torch.tensor([-0.3, 0.2]), 0.7
        self.clients = [Client(number, self.vector.clone(), {}, NONE, NONE) for number in (0, 1)]

    def run(self, number: int, *signs: tuple[int, int]) -> list[Tensor]:
        """A round in which the fits end with these signs of the scores; what the clients began with."""
        this_round = Round(number, 4, (0, 1), {0: 1, 1: 1}, self.clients)
        self.exchange.begin_round(number, (0, 1))
        self.method.begin(this_round, self.exchange, self.shared)
        began = [client.vector[self.w].clone() for client in self.clients]
        for client, own in zip(self.clients, signs, strict=True):
            scores = client.vector.clone()
            scores[self.w] = SURE * torch.tensor(own, dtype=torch.float32)
            client.store("scores", scores)
        self.method.communicate(this_round, self.exchange)
        return began


def test_the_posterior_gathers_masks_until_everybody_could_have_sent() -> None:
    play = Play(layout())
    assert [start.tolist() for start in play.run(0, (1, -1), (1, 1))] == [[0.0, 0.0], [0.0, 0.0]]
    theta = play.method._theta
    assert theta is not None
    assert theta[play.w].tolist() == [1.0, 0.5]
    # Held within ¼ and ¾; of four clients two take part, so the second round adds to the first.
    began = play.run(1, (1, -1), (1, -1))
    assert began[0].tolist() == pytest.approx([math.log(3), 0.0])
    assert play.method._theta is not None
    assert play.method._theta[play.w].tolist() == [1.0, 0.25]
    play.run(2, (-1, -1), (-1, 1))  # and the third begins anew
    assert play.method._theta[play.w].tolist() == [0.0, 0.5]


def test_a_model_is_signed_constants_at_the_mask_and_the_initial_bias() -> None:
    play = Play(layout())
    play.run(0, (1, -1), (1, 1))
    first, second = play.clients
    assert first.vector[play.w].tolist() == [-1.0, 0.0]  # √(2/2) and the sign of −0.3
    assert second.vector[play.w].tolist() == [-1.0, 1.0]
    assert float(first.vector[play.b]) == pytest.approx(0.7)
    assert play.method.personalized(first)[play.w].tolist() == [-1.0, 0.0]
    assert float(play.method.merged(first)[play.w][0]) == -1.0  # θ is 1 there


def test_one_bit_a_weight_goes_up() -> None:
    """A mask of one in two weights: header, two entries of the table, a byte. Of both, the block is full and has no byte."""
    play = Play(layout())
    play.run(0, (1, -1), (1, 1))
    assert play.ledger.round_totals(0)["bytes/up"] == (40 + 2 * 4 + 1) + (40 + 2 * 4)
    play.run(1, (1, -1), (1, 1))
    assert play.ledger.round_totals(1)["bytes/down"] == 2 * (40 + 2 * 4 + 2 * 4)  # two probabilities each


def test_scores_learn_and_weights_stay(tmp_path: Path) -> None:
    federation = simulate(tmp_path, "method=fedpm").federation
    weights = federation.method._weights
    for client in federation.clients.values():
        views, signed = federation.trainer.space.views(client.vector), federation.trainer.space.views(weights)
        for name, first in Tiny().named_parameters():
            if first.dim() < 2:
                assert torch.equal(views[name], first), name
                continue
            size = math.sqrt(2 / first[0].numel())
            assert torch.equal(signed[name], torch.where(first < 0, -size, size)), name
            assert bool(((views[name] == 0) | (views[name] == signed[name])).all()), name
        scores = federation.trainer.space.views(client.extra["scores"])["net.3.weight"]
        assert float(scores.abs().max()) > 0.01


def fedpm(
    federation: Federation, epsilon: float = 0.01, lr: float = 300.0
) -> tuple[dict[int, dict[str, Tensor]], dict[str, Tensor]]:
    """Both rounds loop by loop, in plain PyTorch: each client's last scores and mask, by name, and θ. Of the engine only the
    streams of random numbers are used, and where in a flat vector a parameter lies."""
    x, y = TRAIN.tensors
    views, length = federation.trainer.space.views, len(federation.clients[0].vector)
    initial = dict(Tiny().named_parameters())
    names = [name for name, value in initial.items() if value.dim() > 1]
    w = {n: torch.where(initial[n] < 0, -1.0, 1.0) * math.sqrt(2 / initial[n][0].numel()) for n in names}
    theta = {n: torch.full_like(w[n], 0.5) for n in names}
    seen: dict[int, dict[str, Tensor]] = {}
    for number in range(ROUNDS):
        masks: dict[int, dict[str, Tensor]] = {}
        for i, client in federation.clients.items():
            scores = {n: torch.logit(theta[n].clamp(epsilon, 1 - epsilon)) for n in names}
            order = torch_generator(0, "fit/order", round_number=number, client=i)
            seed_global(0, "fit/dropout", round_number=number, client=i)
            net, own = unseeded_tiny(), client.train_indices
            for _ in range(EPOCHS):
                for index in torch.randperm(len(own), generator=order).split(BATCH):
                    chance = {n: torch.sigmoid(s) for n, s in scores.items()}
                    for (
                        name,
                        parameter,
                    ) in net.named_parameters():  # those without a score are drawn too, and always there
                        drawn = torch.bernoulli(chance.get(name, torch.ones_like(parameter)))
                        parameter.data = w[name] * drawn if name in w else initial[name].detach().clone()
                    net.zero_grad()
                    cross_entropy(net(x[own][index]), y[own][index]).backward()
                    for name, parameter in net.named_parameters():
                        if name in w:
                            assert parameter.grad is not None
                            scores[name] -= lr * parameter.grad * w[name] * chance[name] * (1 - chance[name])
            draws = views(torch.rand(length, generator=torch_generator(0, "masks/sent", round_number=number, client=i)))
            masks[i] = {n: (draws[n] < torch.sigmoid(scores[n])).float() for n in names}
            seen[i] = {f"scores/{n}": scores[n] for n in names} | {f"model/{n}": w[n] * masks[i][n] for n in names}
        theta = {n: sum(mask[n] for mask in masks.values()) / len(masks) for n in names}  # type: ignore[misc]
    return seen, theta


def unseeded_tiny() -> nn.Module:
    """`Tiny` seeds torch's generator, which the masks are drawn from."""
    state = torch.get_rng_state()
    net = Tiny().net
    torch.set_rng_state(state)
    holder = nn.Module()
    holder.net = net
    holder.forward = net.forward  # type: ignore[method-assign]
    return holder.train()


def test_two_rounds_are_those_of_the_twin(tmp_path: Path) -> None:
    federation = simulate(tmp_path, "method=fedpm", "trainer.executor=serial").federation
    expected, theta = fedpm(federation)
    views = federation.trainer.space.views
    for i, client in federation.clients.items():
        for name, value in expected[i].items():
            kind, name = name.split("/")
            found = views(client.vector if kind == "model" else client.extra["scores"])[name]
            torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-3, msg=lambda text, n=name: f"{n}: {text}")
    for name, value in theta.items():
        torch.testing.assert_close(views(federation.method._theta)[name], value, rtol=0, atol=1e-6)


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    class Flat(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.BatchNorm1d(6))

    with pytest.raises(
        ConfigError, match=r"method=FedPM chooses among the weights of layers .* and this model has none"
    ):
        simulate(tmp_path, "method=fedpm", module=Flat())
