"""Naive twins of docs/method.md for the selection: loops, enumeration and one plain sort, nothing shared with the code."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from fedpurin.exchange.wire.costs import Encoding, encoding_costs
from fedpurin.space import Layout


def scores(weights: Tensor, direction: Tensor, order: str, cutoff: float, dtype: torch.dtype) -> Tensor:
    g = direction.to(dtype).to(torch.float32)
    product = g * weights
    c = (-product + 0.5 * product**2).abs() if order == "second" else product.abs()
    return torch.where(c <= cutoff, torch.zeros(()), c)


def top(values: Tensor, count: int) -> Tensor:
    """Booleans of the `count` largest positive values; of equal ones the lower index wins."""
    order = sorted(range(len(values)), key=lambda index: (-float(values[index]), index))
    mask = torch.zeros(len(values), dtype=torch.bool)
    for index in order[:count]:
        mask[index] = float(values[index]) > 0
    return mask


def layerwise(layout: Layout, vector: Tensor, tau: float) -> Tensor:
    mask = torch.zeros(layout.length, dtype=torch.bool)
    for segment in layout:
        mask[segment.slice] = top(vector[segment.slice], math.floor(tau * segment.size))
    return mask


def message_bytes(size: int, count: int, value_bytes: int) -> int:
    costs = encoding_costs(size, value_bytes)
    return min(cost.size(count) for cost in costs if cost.encoding != Encoding.NONE or count == 0)


def upload_bytes(layout: Layout, mask: Tensor, value_bytes: int) -> int:
    return sum(message_bytes(s.size, int(mask[s.slice].sum()), value_bytes) for s in layout)


def best_budget(layout: Layout, vector: Tensor, capacity: int, value_bytes: int) -> float:
    """The best objective over all subsets of all parameters (at most 15 or so)."""
    parts = [vector[segment.slice].double() for segment in layout]
    best = 0.0
    for chosen in itertools.product(*(range(2 ** len(part)) for part in parts)):
        value, used = 0.0, 0
        for part, bits in zip(parts, chosen, strict=True):
            taken = [float(part[index]) for index in range(len(part)) if bits >> index & 1]
            if any(score == 0 for score in taken):
                break
            value += sum(taken)
            used += message_bytes(len(part), len(taken), value_bytes)
        else:
            if used <= capacity:
                best = max(best, value)
    return best


def best_global(layout: Layout, vector: Tensor, total: int, floor: float, ceiling: float) -> float:
    """The best objective over the counts of all tensors."""
    parts = [sorted((x for x in vector[s.slice].double().tolist() if x > 0), reverse=True) for s in layout]
    ranges = []
    for segment, part in zip(layout, parts, strict=True):
        least = min(math.ceil(round(floor * segment.size, 9)), len(part))
        most = min(math.floor(round(ceiling * segment.size, 9)), len(part))
        ranges.append(range(least, most + 1))
    return max(
        sum(sum(part[:count]) for part, count in zip(parts, counts, strict=True))
        for counts in itertools.product(*ranges)
        if sum(counts) <= total
    )
