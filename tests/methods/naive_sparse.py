"""The compressing methods loop by loop in plain PyTorch, as `naive.py` writes the others."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedpurin.seeding import numpy_generator, torch_generator
from tests.integration.naive import layerwise, scores
from tests.methods.naive import Named, Peer, fit, local, parameters, samples


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
    peers: list[Peer],
    round_number: int,
    weights: list[float],
    compress: Callable[[Tensor, Peer], Tensor],
    *,
    feedback: bool,
) -> Tensor:
    """The weighted mean of compressed updates; peers keep their errors."""
    before = flat(peers[0].net)
    local(peers, round_number)
    mean = torch.zeros_like(before)
    for peer, weight in zip(peers, weights, strict=True):
        update = flat(peer.net) - before
        if feedback:
            update = update + peer.kept.get("error", torch.zeros_like(update))
        sent = compress(update, peer)
        peer.kept["error"] = update - sent
        mean = mean + weight / sum(weights) * sent
    return mean


def topk(peers: list[Peer], round_number: int, density: float = 0.2) -> None:
    before = flat(peers[0].net)
    count = max(1, int(density * len(before)))
    mean = compressed(peers, round_number, samples(peers), lambda u, _: sparsify(u, count), feedback=True)
    for peer in peers:
        assign_flat(peer.net, before + mean)


def ternary(update: Tensor, count: int) -> Tensor:
    kept = sparsify(update, count)
    magnitude = sum(abs(float(v)) for v in kept) / count
    return torch.tensor([math.copysign(magnitude, v) if v else 0.0 for v in kept.tolist()])


def stc(peers: list[Peer], round_number: int, density: float = 0.2) -> None:
    """The server's error is kept with the first peer."""
    before = flat(peers[0].net)
    count = max(1, int(density * len(before)))
    mean = compressed(peers, round_number, [1.0] * len(peers), lambda u, _: ternary(u, count), feedback=True)
    mean = mean + peers[0].kept.get("server", torch.zeros_like(mean))
    sent = ternary(mean, count)
    peers[0].kept["server"] = mean - sent
    for peer in peers:
        assign_flat(peer.net, before + sent)


def fedpaq(peers: list[Peer], round_number: int, bits: int = 4) -> None:
    """With one bucket, as there are fewer than 512 parameters."""

    def quantise(update: Tensor, peer: Peer) -> Tensor:
        draws = torch.rand(
            len(update), generator=torch_generator(0, "quantise", round_number=round_number, client=peer.id)
        ).tolist()
        norm, levels, out = float(update.abs().max()), 2 ** (bits - 1) - 1, []
        for v, draw in zip(update.tolist(), draws, strict=True):
            exact = abs(v) / norm * levels
            level = math.floor(exact) + (draw < exact - math.floor(exact))
            out.append(math.copysign(norm * level / levels, v))
        return torch.tensor(out)

    before = flat(peers[0].net)
    mean = compressed(peers, round_number, [1.0] * len(peers), quantise, feedback=False)
    for peer in peers:
        assign_flat(peer.net, before + mean)


def is_weight(name: str) -> bool:
    return name in ("net.0.weight", "net.3.weight")


def fit_elements(peer: Peer, round_number: int, free: Named, epochs: int = 2, purpose: str = "fit") -> None:
    """A fit that puts every other element back after each step: what `free` marks with ones learns."""
    start = parameters(peer.net)

    def hold(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for name, p in peer.net.named_parameters():
            p.data = torch.where(free[name] > 0, p.data, start[name])

    fit(peer, round_number, epochs=epochs, purpose=purpose, after_step=hold)


def sparse_mean(peers: list[Peer], sent: list[Named], before: Named) -> Named:
    """Element by element over whoever sends it; `before` where nobody does."""
    mean = {}
    for name, old in before.items():
        flat_mean = old.flatten().clone()
        for q in range(len(flat_mean)):
            values = [
                float(parameters(peer.net)[name].flatten()[q])
                for peer, mask in zip(peers, sent, strict=True)
                if mask[name].flatten()[q] > 0
            ]
            if values:
                flat_mean[q] = sum(values) / len(values)
        mean[name] = flat_mean.view(old.shape)
    return mean


def prune(weights: Named, kept: Named, share: float, names: list[str]) -> Named:
    """Take the smallest of what is kept in these tensors together."""
    places = [(n, q) for n in names for q in range(kept[n].numel()) if kept[n].flatten()[q]]
    alive = [(abs(float(weights[n].flatten()[q])), n, q) for n, q in places]
    left = {n: k.clone() for n, k in kept.items()}
    for _, n, q in sorted(alive)[: int(share * len(alive))]:
        left[n].view(-1)[q] = 0.0
    return left


def receive(peer: Peer, server: Named, shared: Named) -> None:
    for name, p in peer.net.named_parameters():
        p.data = torch.where(shared[name] > 0, server[name], p.data)


def begin_partial(peers: list[Peer], round_number: int) -> None:
    """Everybody starts with everything kept; the server's model is kept with the first peer."""
    for peer in peers:
        if round_number == 0:
            peer.named = {name: torch.ones_like(p) for name, p in parameters(peer.net).items()}
        else:
            receive(peer, peers[0].server, peer.named)
    if round_number == 0:
        peers[0].server = parameters(peers[0].net)
        peers[0].initial = parameters(peers[0].net)


def sub_fedavg(peers: list[Peer], round_number: int, rate: float = 0.2) -> None:
    begin_partial(peers, round_number)
    for peer in peers:
        fit_elements(peer, round_number, peer.named, epochs=1, purpose="fit/first")
        early = parameters(peer.net)
        fit_elements(peer, round_number, peer.named)
        late = parameters(peer.net)
        first = second = peer.named
        for name in filter(is_weight, late):
            first, second = prune(early, first, rate, [name]), prune(late, second, rate, [name])
        moved = [float((first[n] != second[n]).float().mean()) for n in filter(is_weight, late)]
        if sum(moved) / len(moved) > 0.01:
            peer.named = second
            for name, p in peer.net.named_parameters():
                p.data = p.data * second[name]
    peers[0].server = sparse_mean(peers, [peer.named for peer in peers], peers[0].server)


def lotteryfl(peers: list[Peer], round_number: int, rate: float = 0.2) -> None:
    begin_partial(peers, round_number)
    for peer in peers:
        if round_number > 0:
            received = parameters(peer.net)
            for weight in filter(is_weight, received):
                peer.named = prune(received, peer.named, rate, [weight])
            for name, p in peer.net.named_parameters():
                p.data = peers[0].initial[name] * peer.named[name]
        fit_elements(peer, round_number, peer.named)
    peers[0].server = sparse_mean(peers, [peer.named for peer in peers], peers[0].server)


def fedselect(peers: list[Peer], round_number: int, rate: float = 0.2) -> None:
    """`named` marks what is common."""
    begin_partial(peers, round_number)
    sent = []
    for peer in peers:
        start = parameters(peer.net)
        if round_number > 0:
            fit_elements(peer, round_number, {n: 1 - k for n, k in peer.named.items()}, purpose="fit/personal")
        fit_elements(peer, round_number, peer.named)
        sent.append(peer.named)
        change = {n: -(p - start[n]).abs() for n, p in parameters(peer.net).items()}
        chosen = peer.named
        for name in filter(is_weight, change):
            count = builtins.round(rate * float(peer.named[name].sum()))
            chosen = take_smallest(change, chosen, name, count)
        peer.named = chosen
    peers[0].server = sparse_mean(peers, sent, peers[0].server)


def take_smallest(values: Named, kept: Named, name: str, count: int) -> Named:
    alive = sorted((float(values[name].flatten()[q]), q) for q in range(kept[name].numel()) if kept[name].flatten()[q])
    left = {n: k.clone() for n, k in kept.items()}
    for _, q in alive[:count]:
        left[name].view(-1)[q] = 0.0
    return left


def dispfl(peers: list[Peer], round_number: int, density: float = 0.5, anneal: float = 0.5, rounds: int = 2) -> None:
    """Everybody hears from two others; masks move as FedSpa's."""
    sent: dict[int, tuple[Named, Named]] = {}
    for peer in peers:
        first = parameters(peer.net)
        if round_number == 0:
            peer.named = random_masks(peer, first, density)
        for name, p in peer.net.named_parameters():
            p.data = first[name] * peer.named[name]
        fit_elements(peer, round_number, peer.named)
        sent[peer.id] = parameters(peer.net), dict(peer.named)
        move_mask(peer, round_number, anneal, rounds)
    ids = [peer.id for peer in peers]
    for peer in peers:
        draws = numpy_generator(0, "neighbours", round_number=round_number, client=peer.id)
        heard = [*draws.choice([i for i in ids if i != peer.id], size=2, replace=False).tolist(), peer.id]
        for name, p in peer.net.named_parameters():
            total, count = torch.zeros_like(p.data), torch.zeros_like(p.data)
            for other in sorted(heard):
                total += sent[other][0][name] * sent[other][1][name]
                count += sent[other][1][name]
            p.data = torch.where(count > 0, total / count.clamp(min=1), 0.0) * peer.named[name]


def sparsyfed(peers: list[Peer], round_number: int, density: float = 0.5, alpha: float = 1.25) -> None:
    """Peers hold w between rounds; the mean of the pruned v is kept with the first."""

    def powered(values: Named) -> Named:
        return {n: torch.sign(v) * v.abs() ** alpha if is_weight(n) else v for n, v in values.items()}

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        live = dict(net.named_parameters())
        return cross_entropy(torch.func.functional_call(net, powered(live), (x,)), y)

    if round_number == 0:
        peers[0].server = parameters(peers[0].net)
    mean = {name: torch.zeros_like(value) for name, value in peers[0].server.items()}
    for peer in peers:
        for name, p in peer.net.named_parameters():
            p.data = peers[0].server[name].clone()
        fit(peer, round_number, loss=loss)
        after = parameters(peer.net)
        sizes = sorted(
            (abs(float(v)), n, q) for n in filter(is_weight, after) for q, v in enumerate(after[n].flatten())
        )
        for _, name, q in sizes[: len(sizes) - builtins.round(density * len(sizes))]:
            after[name].view(-1)[q] = 0.0
        for name, value in after.items():
            mean[name] += len(peer.x) / sum(samples(peers)) * value
    peers[0].server = mean
    for peer in peers:
        for name, p in peer.net.named_parameters():
            p.data = powered(mean)[name].clone()


def random_masks(peer: Peer, like: Named, density: float) -> Named:
    draws = torch_generator(0, "masks", client=peer.id)
    masks = {name: torch.ones_like(p) for name, p in like.items()}
    for name in filter(is_weight, like):
        order = torch.randperm(like[name].numel(), generator=draws)
        for q in order[builtins.round(density * len(order)) :].tolist():
            masks[name].view(-1)[q] = 0.0
    return masks


def move_mask(peer: Peer, round_number: int, anneal: float, rounds: int) -> None:
    """The smallest leave, those of largest gradient, which `fit` leaves in the parameters, take their place."""
    after = parameters(peer.net)
    gradient = {n: -p.grad.abs() for n, p in peer.net.named_parameters() if p.grad is not None}
    for name in filter(is_weight, after):
        alive = int(peer.named[name].sum())
        leaving = math.ceil(anneal / 2 * (1 + math.cos(math.pi * round_number / rounds)) * alive)
        left = take_smallest({name: after[name].abs()}, peer.named, name, leaving)
        free = {n: 1 - k for n, k in left.items()}
        peer.named = {n: 1 - k for n, k in take_smallest(gradient, free, name, leaving).items()}


def fedspa(peers: list[Peer], round_number: int, density: float = 0.5, anneal: float = 0.5, rounds: int = 2) -> None:
    """Masks move by the gradient of the last batch, which `fit` leaves in the parameters."""
    if round_number == 0:
        peers[0].server = parameters(peers[0].net)
    server, update = peers[0].server, {n: torch.zeros_like(p) for n, p in peers[0].server.items()}
    for peer in peers:
        if round_number == 0:
            peer.named = random_masks(peer, server, density)
        start = {n: server[n] * peer.named[n] for n in server}
        for name, p in peer.net.named_parameters():
            p.data = start[name].clone()
        fit_elements(peer, round_number, peer.named)
        after = parameters(peer.net)
        for n in server:
            update[n] = update[n] + (after[n] - start[n]) / len(peers)
        move_mask(peer, round_number, anneal, rounds)
    peers[0].server = {n: server[n] + update[n] for n in server}


def fedpurin_feedback(peers: list[Peer], round_number: int, density: float = 0.2, limit: float = 0.9) -> None:
    """The server's model lies with the first peer, in one vector with all that is there before the round's first answer."""
    vectors = {peer.id: flat(peer.net) for peer in peers}
    own = torch.cat(
        [torch.full((p.numel(),), name.startswith("net.1")) for name, p in parameters(peers[0].net).items()]
    )
    count = int(density * int((~own).sum()))
    server = peers[0].kept.get("server", vectors[peers[0].id])
    for peer in peers:
        start = vectors[peer.id]
        known = peer.kept.get("known", start)
        lack = (server - known) * ~own
        peer.kept["known"] = known = known + sparsify(lack, count)
        counts = [int((peer.y == label).sum()) for label in range(3)]
        entropy = -sum(n / len(peer.y) * math.log(n / len(peer.y)) for n in counts if n)
        keeps = peer.kept.get("critical", own) if math.exp(entropy) / 3 <= limit else own
        vectors[peer.id] = torch.where(keeps, start, known)
        assign_flat(peer.net, vectors[peer.id])
    mean = torch.zeros_like(server)
    for peer in peers:
        before = parameters(peer.net)
        fit(peer, round_number)
        after = parameters(peer.net)
        shared = {name: p for name, p in after.items() if not name.startswith("net.1")}
        c = scores(shared, {n: p - before[n] for n, p in shared.items()}, order="first", source="update", cutoff=1e-10)
        mask = layerwise(c, 0.5)
        peer.kept["critical"] = torch.cat(
            [torch.tensor(mask[n]) if n in mask else torch.ones(p.numel(), dtype=torch.bool) for n, p in after.items()]
        )
        change = (flat(peer.net) - vectors[peer.id] + peer.kept.get("unsent_all", torch.zeros_like(mean))) * ~own
        sent = sparsify(change, count)
        peer.kept["unsent_all"] = change - sent
        mean = mean + len(peer.x) / sum(samples(peers)) * sent
    peers[0].kept["server"] = server + mean
