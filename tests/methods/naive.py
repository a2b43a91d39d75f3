"""Every method loop by loop in plain PyTorch: one module a client, dicts of tensors, no flat vectors, no exchange.

Only the streams of random numbers are the engine's (the order of samples). Shares no code with `fedpurin.methods`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from fedpurin.seeding import torch_generator
from tests.integration import naive as paper
from tests.methods.tiny import BATCH, EPOCHS

Named = dict[str, Tensor]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass
class Peer:
    """A client: its data, its model, and what a method keeps beside."""

    id: int
    x: Tensor
    y: Tensor
    net: nn.Module
    second: nn.Module | None = None
    kept: dict[str, Tensor] = field(default_factory=dict)
    named: Named = field(default_factory=dict)
    server: Named = field(default_factory=dict)
    initial: Named = field(default_factory=dict)


def parameters(net: nn.Module) -> Named:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def plain_loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(net(x), y)


def fit(
    peer: Peer,
    round_number: int,
    *,
    net: nn.Module | None = None,
    loss: Loss = plain_loss,
    epochs: int = EPOCHS,
    purpose: str = "fit",
    only: Callable[[str], bool] = lambda name: True,
    after_step: Callable[..., None] = lambda *_: None,
) -> int:
    """SGD with momentum on the parameters that `only` lets through, as anyone would write it; the number of steps."""
    net = net or peer.net
    trained = [p for name, p in net.named_parameters() if only(name)]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    order = torch_generator(0, f"{purpose}/order", round_number=round_number, client=peer.id)
    net.train()
    steps = 0
    for _ in range(epochs):
        for index in torch.randperm(len(peer.x), generator=order).split(BATCH):
            if len(index) > 1:  # batch norm has no statistics of one sample
                optimizer.zero_grad()
                loss(net, peer.x[index], peer.y[index]).backward()
                optimizer.step()
                after_step(optimizer)
                steps += 1
    return steps


def mean(nets: Sequence[nn.Module], weights: Sequence[float]) -> Named:
    """Σ (s_i/Σs) w_i, one tensor at a time."""
    out = {}
    for name in dict(nets[0].named_parameters()):
        total = torch.zeros(())
        for net, weight in zip(nets, weights, strict=True):
            total = total + weight / sum(weights) * dict(net.named_parameters())[name].detach()
        out[name] = total
    return out


def assign(net: nn.Module, values: Mapping[str, Tensor], only: Callable[[str], bool] = lambda name: True) -> None:
    for name, parameter in net.named_parameters():
        if only(name):
            parameter.data = values[name].clone()


def samples(peers: Sequence[Peer]) -> list[float]:
    return [len(peer.x) for peer in peers]


def is_head(name: str) -> bool:
    return name.startswith("net.3")


def is_norm(name: str) -> bool:
    return name.startswith("net.1")


def local(peers: list[Peer], round_number: int) -> None:
    for peer in peers:
        fit(peer, round_number)


def fedavg(peers: list[Peer], round_number: int) -> None:
    local(peers, round_number)
    average = mean([peer.net for peer in peers], samples(peers))
    for peer in peers:
        assign(peer.net, average)


def fedprox(peers: list[Peer], round_number: int, mu: float = 1.0) -> None:
    for peer in peers:
        received = parameters(peer.net)
        fit(peer, round_number, loss=lambda net, x, y, w=received: plain_loss(net, x, y) + mu / 2 * distance(net, w))
    average = mean([peer.net for peer in peers], samples(peers))
    for peer in peers:
        assign(peer.net, average)


def fedper(peers: list[Peer], round_number: int) -> None:
    local(peers, round_number)
    average = mean([peer.net for peer in peers], samples(peers))
    for peer in peers:
        assign(peer.net, average, lambda name: not is_head(name))


def fedrep(peers: list[Peer], round_number: int) -> None:
    for peer in peers:
        fit(peer, round_number, epochs=10, purpose="fit/head", only=is_head)
        fit(peer, round_number, only=lambda name: not is_head(name))
    average = mean([peer.net for peer in peers], [1.0] * len(peers))
    for peer in peers:
        assign(peer.net, average, lambda name: not is_head(name))


def fedbn(peers: list[Peer], round_number: int) -> None:
    local(peers, round_number)
    average = mean([peer.net for peer in peers], [1.0] * len(peers))
    for peer in peers:
        assign(peer.net, average, lambda name: not is_norm(name))


def ditto(peers: list[Peer], round_number: int, lam: float = 1.0) -> None:
    """`net` is the personal model v_k, `second` the copy of the global one."""
    for peer in peers:
        peer.second = peer.second or copy.deepcopy(peer.net)
        received = parameters(peer.second)
        fit(peer, round_number, net=peer.second, purpose="fit/global")
        fit(peer, round_number, loss=lambda net, x, y, w=received: plain_loss(net, x, y) + lam / 2 * distance(net, w))
    average = mean([peer.second for peer in peers if peer.second], [1.0] * len(peers))
    for peer in peers:
        assert peer.second is not None
        assign(peer.second, average)


def pfedsd(peers: list[Peer], round_number: int, temperature: float = 3.0, lam: float = 1.0) -> None:
    """`second` is the teacher: the client's own model after its last fit, running statistics included."""

    def distil(teacher: nn.Module) -> Loss:
        def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                soft = softmax(teacher(x) / temperature, dim=1)
            logits = net(x)
            divergence = kl_div(log_softmax(logits / temperature, dim=1), soft, reduction="batchmean")
            return cross_entropy(logits, y) + lam * temperature**2 * divergence

        return loss

    for peer in peers:
        fit(peer, round_number, loss=distil(peer.second) if peer.second else plain_loss)
        peer.second = copy.deepcopy(peer.net).eval()
    average = mean([peer.net for peer in peers], [1.0] * len(peers))
    for peer in peers:
        assign(peer.net, average)


def fedrod(peers: list[Peer], round_number: int) -> None:
    """`second` is the personal head; two optimizers, one after the other on every batch."""
    for peer in peers:
        generic: nn.Sequential = peer.net.net  # type: ignore[assignment]
        body, head = generic[:3], generic[3]
        peer.second = peer.second or copy.deepcopy(head)
        counts = torch.tensor([float((peer.y == c).sum()) for c in range(3)])
        optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in (generic, peer.second)]
        order = torch_generator(0, "fit/order", round_number=round_number, client=peer.id)
        peer.net.train()
        for _ in range(EPOCHS):
            for index in torch.randperm(len(peer.x), generator=order).split(BATCH):
                if len(index) == 1:
                    continue
                x, y = peer.x[index], peer.y[index]
                features = body(x)
                logits = head(features)
                weighted = counts * logits.exp()
                balanced = -(weighted[range(len(y)), y] / weighted.sum(1)).log().mean()
                personal = cross_entropy(logits.detach() + peer.second(features.detach()), y)
                for optimizer, loss in zip(optimizers, (balanced, personal), strict=True):
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
    average = mean([peer.net for peer in peers], samples(peers))
    for peer in peers:
        assign(peer.net, average)


def fedcac(peers: list[Peer], round_number: int, beta: int = 3, tau: float = 0.5) -> None:
    masks, weights = {}, {}
    for peer in peers:
        before = parameters(peer.net)
        fit(peer, round_number)
        after = parameters(peer.net)
        update = {name: p - before[name] for name, p in after.items()}
        masks[peer.id] = paper.layerwise(paper.scores(after, update, order="first", source="update", cutoff=1e-20), tau)
        weights[peer.id] = after
    groups = paper.collaborators(masks, round_number, beta, "published")
    average = mean([peer.net for peer in peers], samples(peers))
    for peer in peers:
        merged = {}
        for name, own in weights[peer.id].items():
            critical = torch.tensor(masks[peer.id][name]).view(own.shape)
            others = torch.zeros(())
            for j in sorted(groups[peer.id] - {peer.id}):
                others = others + weights[j][name]
            merged[name] = torch.where(critical, (others + own) / len(groups[peer.id]), average[name])
        assign(peer.net, merged)


def distance(net: nn.Module, reference: Named) -> Tensor:
    """‖w − w_ref‖²."""
    return torch.stack([((p - reference[name]) ** 2).sum() for name, p in net.named_parameters()]).sum()
