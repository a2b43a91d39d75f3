"""The compressing methods loop by loop in plain PyTorch, as `naive.py` writes the others."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedpurin.seeding import torch_generator
from tests.methods.naive import Peer, local, parameters, samples


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.flatten() for p in parameters(net).values()])


def assign_flat(net: nn.Module, vector: Tensor) -> None:
    start = 0
    for p in net.parameters():
        p.data = vector[start : start + p.numel()].view(p.shape).clone()
        start += p.numel()


def sparsify(vector: Tensor, count: int) -> Tensor:
    """Zero but for the entries of largest magnitude."""
    order = sorted(range(len(vector)), key=lambda q: -abs(float(vector[q])))
    out = torch.zeros_like(vector)
    for q in order[:count]:
        out[q] = vector[q]
    return out


def compressed(
    peers: list[Peer], round: int, weights: list[float], compress: Callable[[Tensor, Peer], Tensor], *, feedback: bool
) -> Tensor:
    """The weighted mean of compressed updates; peers keep their errors."""
    before = flat(peers[0].net)
    local(peers, round)
    mean = torch.zeros_like(before)
    for peer, weight in zip(peers, weights, strict=True):
        update = flat(peer.net) - before
        if feedback:
            update = update + peer.kept.get("error", torch.zeros_like(update))
        sent = compress(update, peer)
        peer.kept["error"] = update - sent
        mean = mean + weight / sum(weights) * sent
    return mean


def topk(peers: list[Peer], round: int, density: float = 0.2) -> None:
    before = flat(peers[0].net)
    count = max(1, int(density * len(before)))
    mean = compressed(peers, round, samples(peers), lambda u, _: sparsify(u, count), feedback=True)
    for peer in peers:
        assign_flat(peer.net, before + mean)


def ternary(update: Tensor, count: int) -> Tensor:
    kept = sparsify(update, count)
    magnitude = sum(abs(float(v)) for v in kept) / count
    return torch.tensor([math.copysign(magnitude, v) if v else 0.0 for v in kept.tolist()])


def stc(peers: list[Peer], round: int, density: float = 0.2) -> None:
    """The server's error is kept with the first peer."""
    before = flat(peers[0].net)
    count = max(1, int(density * len(before)))
    mean = compressed(peers, round, [1.0] * len(peers), lambda u, _: ternary(u, count), feedback=True)
    mean = mean + peers[0].kept.get("server", torch.zeros_like(mean))
    sent = ternary(mean, count)
    peers[0].kept["server"] = mean - sent
    for peer in peers:
        assign_flat(peer.net, before + sent)


def fedpaq(peers: list[Peer], round: int, bits: int = 4) -> None:
    """With one bucket, as there are fewer than 512 parameters."""

    def quantise(update: Tensor, peer: Peer) -> Tensor:
        draws = torch.rand(len(update), generator=torch_generator(0, "quantise", round=round, client=peer.id)).tolist()
        norm, levels, out = float(update.abs().max()), 2 ** (bits - 1) - 1, []
        for v, draw in zip(update.tolist(), draws, strict=True):
            exact = abs(v) / norm * levels
            level = math.floor(exact) + (draw < exact - math.floor(exact))
            out.append(math.copysign(norm * level / levels, v))
        return torch.tensor(out)

    before = flat(peers[0].net)
    mean = compressed(peers, round, [1.0] * len(peers), quantise, feedback=False)
    for peer in peers:
        assign_flat(peer.net, before + mean)
