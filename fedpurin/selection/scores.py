"""Perturbation scores: docs/method.md step 2 on the flat vector.

Owns the formula, its rounding and the null cutoff. Does not own which direction is passed in (the last
gradient, or w − w⁰: the caller's) nor what is selected (`selector.py`).

The rounding is part of the definition, since masks are compared bit for bit: a gradient is rounded to
`gradient_dtype` and back, then every operation of |−g·w + ½(g·w)²| rounds once to float32, in the order
written. Hence no fused multiply-add and no wider accumulator, in either implementation. A score at or below
the cutoff becomes exactly 0.0, which is how every later stage recognises a null parameter. NaN survives, and
is refused by `Selector.solve`, where it can be named with its tensor.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from fedpurin.config import ScoresConfig
from fedpurin.parallel import map_items
from fedpurin.selection.reduction.kernels import CHUNK, chunks, score_chunk

_GRADIENT_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def perturbation_scores(
    parameters: Float32[Tensor, " length"],
    direction: Float32[Tensor, " length"],
    config: ScoresConfig,
    generator: torch.Generator | None = None,
) -> Float32[Tensor, " length"]:
    """Score every element of a flat vector; null scores are exactly 0.0.

    Args:
        parameters: w after local training.
        direction: g of the last mini-batch (`source: gradient`), or w − w⁰ (`source: update`, `order: update`).
        generator: the CPU stream that `order: random` draws from, one number a parameter.

    Raises:
        ValueError: `order: random` without a generator;
        ValueError: the two vectors differ in shape or device, or are not float32.
    """
    if parameters.shape != direction.shape or parameters.device != direction.device:
        raise ValueError(
            f"scores need parameters and direction alike; got {tuple(parameters.shape)} on {parameters.device} "
            f"and {tuple(direction.shape)} on {direction.device}"
        )
    if parameters.dtype != torch.float32 or direction.dtype != torch.float32:
        raise ValueError(f"scores need float32 vectors; got {parameters.dtype} and {direction.dtype}")
    if config.order in ("random", "magnitude", "update"):
        return _score_control(parameters.detach(), direction.detach(), config, generator)
    gradient_dtype = config.gradient_dtype if config.source == "gradient" else "float32"
    if parameters.device.type == "cpu":
        return _score_cpu(parameters.detach(), direction.detach(), config, gradient_dtype)
    return _score_torch(parameters.detach(), direction.detach(), config, gradient_dtype)


def _score_control(
    parameters: Tensor, direction: Tensor, config: ScoresConfig, generator: torch.Generator | None
) -> Tensor:
    """Scores that use no gradient, as controls; the cutoff makes them null as it does the others."""
    if config.order == "random":
        if generator is None:
            raise ValueError("scores.order=random draws from a generator; none was given")
        scores = torch.rand(len(parameters), generator=generator).to(parameters.device)  # the CPU's bits everywhere
    else:
        scores = (parameters if config.order == "magnitude" else direction).abs()
    cutoff = torch.tensor(config.cutoff, dtype=torch.float32, device=scores.device)
    return scores.masked_fill_(scores <= cutoff, 0.0)


def _score_cpu(parameters: Tensor, direction: Tensor, config: ScoresConfig, gradient_dtype: str) -> Tensor:
    weights, slopes = parameters.contiguous().numpy(), direction.contiguous().numpy()
    scores = np.empty_like(weights)
    dropped_bits = {"float32": 0, "bfloat16": 16, "float16": 13}[gradient_dtype]
    is_second, cutoff = config.order == "second", np.float32(config.cutoff)

    def score(chunk: tuple[int, int]) -> None:
        part = slice(*chunk)
        score_chunk(weights[part], slopes[part], scores[part], dropped_bits, is_second, cutoff)

    map_items(score, chunks(len(weights)))
    return torch.from_numpy(scores)


def _score_torch(parameters: Tensor, direction: Tensor, config: ScoresConfig, gradient_dtype: str) -> Tensor:
    scores = torch.empty_like(parameters)
    cutoff = torch.tensor(config.cutoff, dtype=torch.float32, device=scores.device)
    for start in range(0, len(scores), CHUNK):
        chunk = slice(start, start + CHUNK)
        product = direction[chunk].to(_GRADIENT_DTYPES[gradient_dtype]).float() * parameters[chunk]
        if config.order == "second":
            product = product.square().mul_(0.5).sub_(product)
        product.abs_()
        scores[chunk] = product.masked_fill_(product <= cutoff, 0.0)
    return scores
