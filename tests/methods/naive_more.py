"""Further methods loop by loop in plain PyTorch, as `naive.py` writes the first ones."""

from __future__ import annotations

import copy
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from fedpurin.seeding import torch_generator
from tests.methods.naive import Peer, assign, distance, fit, is_head, mean, parameters, plain_loss, samples
from tests.methods.naive_sparse import assign_flat, flat
from tests.methods.tiny import BATCH, EPOCHS


def fedbabu(peers: list[Peer], round_number: int) -> None:
    for peer in peers:
        tuned = copy.deepcopy(peer.net)
        fit(peer, round_number, net=tuned, epochs=5, purpose="fit/personal")
        peer.kept["personal"] = flat(tuned)
        fit(peer, round_number, only=lambda name: not is_head(name))
    average = mean([peer.net for peer in peers], samples(peers))
    for peer in peers:
        assign(peer.net, average, lambda name: not is_head(name))


def scaffold(peers: list[Peer], round_number: int) -> None:
    """The server's control variate is kept with the first peer; momentum 0.9 and a learning rate of 0.1."""
    start = flat(peers[0].net)
    control = peers[0].kept.get("server", torch.zeros_like(start))
    changes = []
    for peer in peers:
        own = peer.kept.get("control", torch.zeros_like(start))

        def loss(net: nn.Module, x: Tensor, y: Tensor, shift: Tensor = control - own) -> Tensor:
            return plain_loss(net, x, y) + (torch.cat([p.flatten() for p in net.parameters()]) * shift).sum()

        steps = fit(peer, round_number, loss=loss)
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


def batches(peer: Peer, round_number: int, epochs: int, purpose: str = "fit") -> list[tuple[Tensor, Tensor]]:
    order = torch_generator(0, f"{purpose}/order", round_number=round_number, client=peer.id)
    drawn = [index for _ in range(epochs) for index in torch.randperm(len(peer.x), generator=order).split(BATCH)]
    return [(peer.x[index], peer.y[index]) for index in drawn if len(index) > 1]


def loss_of(net: nn.Module, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The loss with these weights; the running statistics of `net` stay."""
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    return cross_entropy(functional_call(net, {**weights, **buffers}, x), y)


def descend(net: nn.Module, data: list[tuple[Tensor, Tensor]], lr: float, lam: float = 0.0) -> Tensor:
    """Plain SGD on a copy, drawn to where it starts; its parameters."""
    net, start = copy.deepcopy(net), parameters(net)
    net.train()
    for x, y in data:
        net.zero_grad()
        (plain_loss(net, x, y) + lam / 2 * distance(net, start)).backward()
        for p in net.parameters():
            assert p.grad is not None
            p.data = p.data - lr * p.grad
    return flat(net)


def fedala(peers: list[Peer], round_number: int, eta: float = 1.0) -> None:
    """`second` is the mean received."""
    for peer in peers:
        if peer.second is not None:
            own, received = parameters(peer.net), parameters(peer.second)
            weights = peer.named or {name: torch.ones_like(p) for name, p in own.items()}
            for x, y in batches(peer, round_number, 1 if peer.named else 10, "fit/weights"):
                mixed = {n: (own[n] + (received[n] - own[n]) * weights[n]).requires_grad_() for n in own}
                peer.net.train()
                gradients = torch.autograd.grad(loss_of(peer.net, mixed, x, y), list(mixed.values()))
                for (n, w), g in zip(weights.items(), gradients, strict=True):
                    weights[n] = (w - eta * g * (received[n] - own[n])).clamp(0, 1)
            peer.named = weights
            assign(peer.net, {n: own[n] + (received[n] - own[n]) * weights[n] for n in own})
        fit(peer, round_number)
    average = mean([peer.net for peer in peers], samples(peers))
    for peer in peers:
        peer.second = copy.deepcopy(peer.net)
        assign(peer.second, average)


def apfl(peers: list[Peer], round_number: int) -> None:
    """`net` is w, `second` v; SGD with momentum written out, for α too."""
    for peer in peers:
        peer.second = peer.second or copy.deepcopy(peer.net)
        w, v = parameters(peer.net), parameters(peer.second)
        alpha = peer.kept.get("alpha", torch.tensor([0.5]))
        speed = [torch.zeros_like(p) for p in (*w.values(), *v.values(), alpha)]
        peer.net.train()
        for x, y in batches(peer, round_number, EPOCHS):
            free = {n: p.clone().requires_grad_() for n, p in w.items()}
            gradient_w = torch.autograd.grad(loss_of(peer.net, free, x, y), list(free.values()))
            mixed = {n: (alpha * v[n] + (1 - alpha) * w[n]).requires_grad_() for n in w}
            loss = cross_entropy(functional_call(peer.net, mixed, x), y)  # moves the running statistics
            gradient = torch.autograd.grad(loss, list(mixed.values()))
            gradient_v = [alpha * g for g in gradient]
            slope = sum(((v[n] - w[n]) * g).sum() for n, g in zip(w, gradient, strict=True))
            steps = (*gradient_w, *gradient_v, torch.as_tensor(slope).view(1))
            speed = [0.9 * s + g for s, g in zip(speed, steps, strict=True)]
            for k, n in enumerate(w):
                w[n] = w[n] - 0.1 * speed[k]
                v[n] = v[n] - 0.1 * speed[len(w) + k]
            alpha = (alpha - 0.1 * speed[-1]).clamp(0, 1)
        assign(peer.net, w)
        assign(peer.second, v)
        peer.kept["alpha"] = alpha
    average = sum(flat(peer.net) for peer in peers) / len(peers)
    for peer in peers:
        assign_flat(peer.net, average)


def per_fedavg(peers: list[Peer], round_number: int, alpha: float = 0.05) -> None:
    def meta(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        (x1, x2), (y1, y2) = ((t[: len(t) // 2], t[len(t) // 2 :]) if len(t) > 3 else (t, t) for t in (x, y))
        free = {name: p.requires_grad_() for name, p in parameters(net).items()}
        gradients = torch.autograd.grad(loss_of(net, free, x1, y1), list(free.values()))
        there = dict(net.named_parameters())
        there = {n: p - alpha * g for (n, p), g in zip(there.items(), gradients, strict=True)}  # type: ignore[misc]
        return cross_entropy(functional_call(net, there, x2), y2)

    for peer in peers:
        peer.kept["personal"] = descend(peer.net, batches(peer, round_number, 1, "fit/personal"), alpha)
        fit(peer, round_number, loss=meta)
    average = sum(flat(peer.net) for peer in peers) / len(peers)
    for peer in peers:
        assign_flat(peer.net, average)


def pfedme(peers: list[Peer], round_number: int, lam: float = 15.0, rate: float = 0.01) -> None:
    def envelope(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        w, theta = parameters(net), parameters(net)
        for _ in range(5):
            free = {name: p.clone().requires_grad_() for name, p in theta.items()}
            gradients = torch.autograd.grad(loss_of(net, free, x, y), list(free.values()))
            for (n, t), g in zip(theta.items(), gradients, strict=True):
                theta[n] = t - rate * (g + lam * (t - w[n]))
        functional_call(net, theta, x)  # moves the running statistics
        return lam / 2 * distance(net, theta)

    for peer in peers:
        peer.kept["personal"] = descend(peer.net, batches(peer, round_number, 5, "fit/personal"), rate, lam)
        fit(peer, round_number, loss=envelope)
    average = sum(flat(peer.net) for peer in peers) / len(peers)
    for peer in peers:
        assign_flat(peer.net, average)


def fedamp(peers: list[Peer], round_number: int, lam: float = 1.0, step: float = 1.0, sigma: float = 4.0) -> None:
    for peer in peers:
        received = parameters(peer.net)
        weight = lam / step
        fit(
            peer,
            round_number,
            loss=lambda net, x, y, u=received, k=weight: plain_loss(net, x, y) + k / 2 * distance(net, u),
        )
    models = [flat(peer.net) for peer in peers]
    for i, peer in enumerate(peers):
        mixed, left = torch.zeros_like(models[0]), 1.0
        for j, other in enumerate(models):
            if i != j:
                squared = float(((models[i] - other) ** 2).sum())
                attention = step * torch.exp(torch.tensor(-squared / sigma)) / sigma
                mixed, left = mixed + attention * other, left - float(attention)
        assign_flat(peer.net, mixed + left * models[i])


def fedproto(peers: list[Peer], round_number: int, lam: float = 1.0) -> None:
    """`named` holds the means received, by class."""
    means: list[dict[int, Tensor]] = []
    for peer in peers:
        seen: dict[int, list[Tensor]] = {}

        def loss(
            net: nn.Module,
            x: Tensor,
            y: Tensor,
            seen: dict[int, list[Tensor]] = seen,
            common: dict[str, Tensor] = peer.named,
        ) -> Tensor:
            layers: nn.Sequential = net.net  # type: ignore[assignment]
            features = layers[:3](x)
            total = cross_entropy(layers[3](features), y)
            distance = torch.zeros_like(features)
            for k, label in enumerate(y.tolist()):
                seen.setdefault(label, []).append(features[k].detach())
                if str(label) in common:
                    distance[k] = (features[k] - common[str(label)]) ** 2
            return total + lam * distance.mean() if common else total

        fit(peer, round_number, loss=loss)
        means.append({label: torch.stack(rows).mean(0) for label, rows in seen.items()})
    labels = {label for own in means for label in own}
    common = {str(c): torch.stack([own[c] for own in means if c in own]).mean(0) for c in labels}
    for peer in peers:
        peer.named = common


def fedpac(peers: list[Peer], round_number: int, lam: float = 1.0) -> None:
    """`named` holds the centroids by class. Statistics are those of the head's two passes: BATCH norm in training mode."""
    variances, signatures, centroids, totals = [], [], {}, {}
    common = peers[0].named
    for peer in peers:
        seen: dict[int, list[Tensor]] = {}

        def watching(net: nn.Module, x: Tensor, y: Tensor, seen: dict[int, list[Tensor]] = seen) -> Tensor:
            layers: nn.Sequential = net.net  # type: ignore[assignment]
            features = layers[:3](x)
            for row, label in zip(features.detach(), y.tolist(), strict=True):
                seen.setdefault(label, []).append(row)
            return cross_entropy(layers[3](features), y)

        fit(peer, round_number, loss=watching, epochs=1, purpose="fit/head", only=is_head)
        rows = {label: torch.stack(found) for label, found in seen.items()}
        count = sum(len(found) for found in rows.values())
        own = {label: found.mean(0) for label, found in rows.items()}
        signature = torch.zeros(3, 5)
        for label, found in rows.items():
            signature[label] = len(found) / count * own[label]
        square = sum(float((row**2).sum()) for found in rows.values() for row in found) / count
        variances.append((square - float((signature**2).sum())) / len(peer.x))
        signatures.append(signature)

        def aligned(net: nn.Module, x: Tensor, y: Tensor, own: dict[int, Tensor] = own) -> Tensor:
            layers: nn.Sequential = net.net  # type: ignore[assignment]
            features = layers[:3](x)
            loss = cross_entropy(layers[3](features), y)
            if not common:
                return loss
            goals = torch.stack([common[str(c)] if str(c) in common else own[c] for c in y.tolist()])
            return loss + lam * ((features - goals) ** 2).mean()

        fit(peer, round_number, loss=aligned, only=lambda name: not is_head(name))
        net: nn.Sequential = peer.net.eval().net  # type: ignore[assignment]
        for row, label in zip(net[:3](peer.x).detach(), peer.y.tolist(), strict=True):
            centroids[str(label)] = centroids.get(str(label), 0) + row
            totals[str(label)] = totals.get(str(label), 0) + 1
    average = mean([peer.net for peer in peers], samples(peers))
    heads = [{n: p for n, p in parameters(peer.net).items() if is_head(n)} for peer in peers]
    for i, peer in enumerate(peers):
        weights = best_weights(variances, signatures, i)
        assign(peer.net, average, lambda name: not is_head(name))
        mixed = {n: sum(w * head[n] for w, head in zip(weights, heads, strict=True)) for n in heads[0]}
        assign(peer.net, mixed, is_head)  # type: ignore[arg-type]
        peer.named = {label: total / totals[label] for label, total in centroids.items()}


def best_weights(variances: list[float], signatures: list[Tensor], i: int) -> list[float]:
    """The least Σα²V + ‖Σα(μ_i − μ_j)‖² by trying every support, each a linear system."""
    away = torch.stack([(signatures[i] - s).flatten() for s in signatures]).double()
    form = torch.diag(torch.tensor(variances).double()) + away @ away.T
    best, found = float("inf"), torch.zeros(len(form)).double()
    for size in range(1, len(form) + 1):
        for support in combinations(range(len(form)), size):
            part = torch.linalg.solve(form[list(support)][:, list(support)], torch.ones(size).double())
            alpha = torch.zeros(len(form)).double()
            alpha[list(support)] = part / part.sum()
            value = float(alpha @ form @ alpha)
            if bool((alpha >= 0).all()) and value < best:
                best, found = value, alpha
    found[found <= 1e-3] = 0
    return (found / found.sum()).tolist()
