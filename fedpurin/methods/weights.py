"""Which elements of a model the sparse methods prune or choose among: those of layers' weights.

Owns: telling weights from biases and norms, dropping the smallest. Does not own: which share, and when (the methods).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from fedpurin.config import ConfigError
from fedpurin.methods.base import Method
from fedpurin.space import Layout, ParameterSpace, Segment


def weight_matrices(layout: Layout) -> list[Segment]:
    """The tensors that are pruned or chosen from: weights, neither biases nor norms."""
    return [segment for segment in layout if len(segment.shape) > 1 and not segment.is_norm]


def weight_elements(layout: Layout, like: Float32[Tensor, " length"]) -> Bool[Tensor, " length"]:
    """Which elements of a vector are weights; `like` says how long it is, and where."""
    chosen = torch.zeros_like(like, dtype=torch.bool)
    for segment in weight_matrices(layout):
        chosen[segment.slice] = True
    return chosen


def require_weights(method: Method, space: ParameterSpace) -> None:
    """Raise ConfigError where there is nothing to prune or choose among."""
    if not weight_matrices(space.shared):
        raise ConfigError(
            f"method={type(method).__name__} chooses among the weights of layers (tensors of two dimensions and more), and "
            "this model has none"
        )


def without_smallest(
    size: Float32[Tensor, " length"], kept: Bool[Tensor, " length"], share: float, parts: Sequence[slice]
) -> Bool[Tensor, " length"]:
    """`kept` without the ⌊share·n⌋ smallest of its n elements in each part."""
    left = kept.clone()
    for part in parts:
        alive = torch.nonzero(kept[part]).squeeze(1) + part.start
        count = int(share * len(alive))
        left[alive[size[alive].topk(count, largest=False).indices]] = False
    return left
