"""Layouts and scores for the selection's tests, plain and adversarial."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from fedpurin.space import Layout

KINDS = ("normal", "ties", "nulls", "heavy", "giant", "equal", "zero", "subnormal")


def draw_scores(kind: str, size: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    values = {
        "normal": lambda: np.abs(rng.standard_normal(size)),
        "ties": lambda: rng.integers(0, 4, size),
        "nulls": lambda: rng.random(size) * (rng.random(size) < 0.3),
        "heavy": lambda: np.exp(3.0 * rng.standard_normal(size) - 10.0),
        "giant": lambda: np.where(np.arange(size) == size // 2, 1e6, rng.random(size)),
        "equal": lambda: np.full(size, 0.37),
        "zero": lambda: np.zeros(size),
        "subnormal": lambda: rng.integers(0, 2000, size) * 1.4e-45,
    }[kind]()
    return torch.from_numpy(values.astype(np.float32))


@st.composite
def instances(
    draw: st.DrawFn, max_size: int = 60, max_tensors: int = 5, kinds: tuple[str, ...] = KINDS
) -> tuple[Layout, Tensor]:
    sizes = draw(st.lists(st.integers(1, max_size), min_size=1, max_size=max_tensors))
    layout = Layout.from_sizes(sizes)
    kind, seed = draw(st.sampled_from(kinds)), draw(st.integers(0, 2**16))
    return layout, layout.embed(draw_scores(kind, layout.size, seed))
