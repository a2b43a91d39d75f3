"""docs/method.md, loop by loop: the slow, obvious twin of everything that the engine does to clients.

Models are dicts of tensors, masks are dicts of lists of booleans, and nothing is vectorised over parameters or
clients. Shares no code with the package.
"""

from __future__ import annotations

import math

import torch

Model = dict[str, torch.Tensor]
Mask = dict[str, list[bool]]


def scores(w: Model, direction: Model, *, order: str, source: str, cutoff: float) -> dict[str, list[float]]:
    """Step 2. float32 scalars, one at a time; `direction` is the gradient or the update."""
    out: dict[str, list[float]] = {}
    for name in w:
        values = []
        for q in range(w[name].numel()):
            wq, gq = w[name].flatten()[q], direction[name].flatten()[q]
            if source == "gradient":
                gq = gq.half().float()
            c = abs(-(gq * wq) + 0.5 * (gq * wq) ** 2) if order == "second" else abs(gq * wq)
            values.append(0.0 if float(c) <= cutoff else float(c))
        out[name] = values
    return out


def layerwise(c: dict[str, list[float]], tau: float) -> Mask:
    """Step 3: the ⌊τ n_l⌋ best of each tensor, lower index first among equals, null scores never."""
    mask: Mask = {}
    for name, values in c.items():
        ranked = sorted(range(len(values)), key=lambda q: (-values[q], q))
        chosen = {q for q in ranked[: math.floor(tau * len(values))] if values[q] > 0}
        mask[name] = [q in chosen for q in range(len(values))]
    return mask


def overlap(mi: Mask, mj: Mask, kind: str) -> float:
    """Step 5."""
    differ = sum(a != b for name in mi for a, b in zip(mi[name], mj[name], strict=True))
    both = sum(a and b for name in mi for a, b in zip(mi[name], mj[name], strict=True))
    size_i, size_j = (sum(sum(bits) for bits in m.values()) for m in (mi, mj))
    return 1 - differ / (2 * size_i) if kind == "published" else 2 * both / (size_i + size_j)


def collaborators(masks: dict[int, Mask], round_number: int, beta: int, kind: str) -> dict[int, set[int]]:
    """Step 5, with the rule for empty masks."""
    sending = [i for i, m in masks.items() if any(any(bits) for bits in m.values())]
    pairs = {(i, j): overlap(masks[i], masks[j], kind) for i in sending for j in sending if i != j}
    groups = {i: {i} for i in masks}
    if pairs:
        mean = sum(pairs.values()) / len(pairs)
        threshold = mean + (round_number + 1) / beta * (max(pairs.values()) - mean)
        for (i, j), value in pairs.items():
            if value >= threshold:
                groups[i].add(j)
    return groups


def merge(
    models: dict[int, Model],
    masks: dict[int, Mask],
    groups: dict[int, set[int]],
    num_train: dict[int, int],
    *,
    normalise: str,
    fill: str,
) -> dict[int, Model]:
    """Steps 6 and 7."""
    total = sum(num_train.values())
    merged: dict[int, Model] = {}
    for i, model in models.items():
        merged[i] = {}
        for name, tensor in model.items():
            flat = tensor.flatten().clone()
            for q in range(flat.numel()):
                if masks[i][name][q]:
                    value, count = torch.tensor(0.0), 1
                    for j in sorted(groups[i] - {i}):
                        if masks[j][name][q]:
                            value = value + models[j][name].flatten()[q]
                            count += 1
                    value = value + models[i][name].flatten()[q]
                    flat[q] = value / (len(groups[i]) if normalise == "collaborators" else count)
                elif fill == "global":
                    value = torch.tensor(0.0)
                    for j in sorted(models):
                        if masks[j][name][q]:
                            weight = torch.tensor(num_train[j] / total, dtype=torch.float32)
                            value = value + weight * models[j][name].flatten()[q]
                    flat[q] = value
            merged[i][name] = flat.view(tensor.shape)
    return merged
