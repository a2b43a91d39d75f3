"""FedPM on numbers worked out by hand: what goes up, the posterior, what comes down, and what a client's model is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedpurin.config import ConfigError, ExchangeConfig
from fedpurin.exchange import Exchange, Ledger, Processes
from fedpurin.local.client import Client
from fedpurin.methods import FedPM, Round
from fedpurin.space import Layout, Segment
from tests.methods.tiny import Tiny, simulate

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


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    class Flat(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.BatchNorm1d(6))

    with pytest.raises(
        ConfigError, match=r"method=FedPM chooses among the weights of layers .* and this model has none"
    ):
        simulate(tmp_path, "method=fedpm", module=Flat())
