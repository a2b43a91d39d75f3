"""Further methods loop by loop in plain PyTorch, as `naive.py` writes the first ones."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tests.methods.naive import Peer, assign, fit, is_head, mean, plain_loss, samples
from tests.methods.naive_sparse import assign_flat, flat


def fedbabu(peers: list[Peer], round: int) -> None:
    for peer in peers:
        tuned = copy.deepcopy(peer.net)
        fit(peer, round, net=tuned, epochs=5, purpose="fit/personal")
        peer.kept["personal"] = flat(tuned)
        fit(peer, round, only=lambda name: not is_head(name))
    average = mean([peer.net for peer in peers], samples(peers))
    for peer in peers:
        assign(peer.net, average, lambda name: not is_head(name))


def scaffold(peers: list[Peer], round: int) -> None:
    """The server's control variate is kept with the first peer; momentum 0.9 and a learning rate of 0.1."""
    start = flat(peers[0].net)
    control = peers[0].kept.get("server", torch.zeros_like(start))
    changes = []
    for peer in peers:
        own = peer.kept.get("control", torch.zeros_like(start))

        def loss(net: nn.Module, x: Tensor, y: Tensor, shift: Tensor = control - own) -> Tensor:
            return plain_loss(net, x, y) + (torch.cat([p.flatten() for p in net.parameters()]) * shift).sum()

        steps = fit(peer, round, loss=loss)
        reach, velocity = 0.0, 0.0
        for _ in range(steps):
            velocity = 0.9 * velocity + 1
            reach += 0.1 * velocity
        new = own - control + (start - flat(peer.net)) / reach
        changes.append(new - own)
        peer.kept["control"] = new
    peers[0].kept["server"] = control + sum(changes) / len(peers)
    average = sum(flat(peer.net) for peer in peers) / len(peers)
    for peer in peers:
        assign_flat(peer.net, average)
