"""METHOD steps 5 to 7, loop by loop over clients and parameters, for the tests to compare with; and test clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from fedpurin.space import Layout, pack_mask, unpack_mask

Masks = Mapping[int, Sequence[bool]]
Values = Mapping[int, Sequence[np.float32]]


def overlap(masks: Masks, kind: str) -> dict[tuple[int, int], Fraction]:
    """O_ij of every ordered pair of clients with non-empty masks, exactly."""
    result = {}
    for i, m_i in masks.items():
        for j, m_j in masks.items():
            if i == j or not any(m_i) or not any(m_j):
                continue
            if kind == "published":
                distance = sum(a != b for a, b in zip(m_i, m_j, strict=True))
                result[i, j] = 1 - Fraction(distance, 2 * sum(m_i))
            else:
                both = sum(a and b for a, b in zip(m_i, m_j, strict=True))
                result[i, j] = Fraction(2 * both, sum(m_i) + sum(m_j))
    return result


def bar(overlaps: Mapping[tuple[int, int], Fraction], round_number: int, beta: int) -> Fraction:
    """θ_t, exactly."""
    mean, highest = sum(overlaps.values()) / Fraction(len(overlaps)), max(overlaps.values())
    return mean + Fraction(round_number + 1, beta) * (highest - mean)


def collaborators(masks: Masks, kind: str, round_number: int, beta: int) -> dict[int, tuple[int, ...]]:
    """C_i of every client."""
    overlaps = overlap(masks, kind)
    if not overlaps:
        return {i: (i,) for i in masks}
    least = bar(overlaps, round_number, beta)
    return {i: tuple(sorted([i] + [j for j in masks if (i, j) in overlaps and overlaps[i, j] >= least])) for i in masks}


def merge(
    values: Values,
    masks: Masks,
    groups: Mapping[int, Sequence[int]],
    normalise: str,
    fill: str,
    samples: Mapping[int, int],
) -> dict[int, list[np.float32]]:
    """Every client's parameters after steps 6 and 7, one float32 operation at a time."""
    total = sum(samples.values())
    merged: dict[int, list[np.float32]] = {i: [] for i in masks}
    for i in masks:
        for q in range(len(masks[i])):
            if masks[i][q]:
                others = np.float32(0)
                contributors = 0
                for j in sorted(groups[i]):
                    if masks[j][q]:
                        contributors += 1
                        if j != i:
                            others = np.float32(others + values[j][q])
                divisor = len(groups[i]) if normalise == "collaborators" else contributors
                result = np.float32(np.float32(others + values[i][q]) / np.float32(divisor))
            elif fill == "local":
                result = values[i][q]
            else:
                result = np.float32(0)
                for j in sorted(masks):
                    if masks[j][q]:
                        weighted = np.float32(np.float32(samples[j] / total) * values[j][q])
                        result = np.float32(result + weighted)
            merged[i].append(result)
    return merged


@dataclass
class Clients:
    """Made-up participants of one round."""

    layout: Layout
    ids: list[int]
    vectors: dict[int, Tensor]
    masks: dict[int, Tensor]
    samples: dict[int, int]

    @classmethod
    def make(cls, sizes: Sequence[int], ids: Sequence[int], densities: Sequence[float], seed: int = 0) -> Clients:
        """Masks of different densities that have more in common than by chance; private parameters behind the shared."""
        layout = Layout.from_sizes(sizes)
        generator = torch.Generator().manual_seed(seed)
        parameters, common = layout.parameter_mask(), torch.rand(layout.length, generator=generator)
        vectors, masks, samples = {}, {}, {}
        for i, density in zip(ids, densities, strict=True):
            own = torch.where(
                torch.rand(layout.length, generator=generator) < 0.6,
                common,
                torch.rand(layout.length, generator=generator),
            )
            masks[i] = pack_mask((own < density) & parameters)
            vectors[i] = torch.randn(layout.length + 64, generator=generator)
            vectors[i][: layout.length] *= parameters
            samples[i] = int(torch.randint(1, 900, (1,), generator=generator))
        return cls(layout, list(ids), vectors, masks, samples)

    def bits(self) -> dict[int, list[bool]]:
        return {i: unpack_mask(mask).tolist() for i, mask in self.masks.items()}

    def values(self) -> dict[int, list[np.float32]]:
        return {i: list(vector[: self.layout.length].numpy()) for i, vector in self.vectors.items()}

    def copies(self, ids: Sequence[int] | None = None) -> dict[int, Tensor]:
        return {i: self.vectors[i].clone() for i in (self.ids if ids is None else ids)}
