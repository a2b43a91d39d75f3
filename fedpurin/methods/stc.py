"""Sparse ternary compression (Sattler et al., IEEE TNNLS 2020, arXiv 1903.02891, Algorithms 1 and 2), both ways.

Shares every trainable parameter. STC(u) keeps the k = max(⌊density·n⌋, 1) entries of largest magnitude of all tensors
together, and of them the sign and their mean magnitude μ. Client and server keep what that loses, e_i and e:
    u_i = w_i − w + e_i        c_i = STC(u_i)        e_i ← u_i − c_i
    ū   = (1/|S|) Σ_i c_i + e  c = STC(ū)            e ← ū − c        w ← w + c
Positions take the fewest bytes of our index encodings, where the paper has Golomb's; whoever missed rounds gets the
model, where the paper sums up what was missed as long as that is shorter.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.exchange import Update
from fedpurin.exchange.wire.codes import Ternary
from fedpurin.local.client import Client
from fedpurin.methods.base import OPTIONS, Round
from fedpurin.methods.compressed import Compressed, largest


@dataclass(kw_only=True, config=OPTIONS)
class STC(Compressed):
    """Top-k and one bit a value, up and down."""

    keeps_error: ClassVar[bool] = True

    density: Annotated[float, Field(gt=0, le=1)] = 0.0025
    """Share of the parameters that client and server send; the paper's p = 1/400."""
    weighting: Literal["samples", "uniform"] = "uniform"

    def code(self) -> Ternary:
        return Ternary()

    def compress(self, client: Client, update: Tensor, this_round: Round) -> Update:
        return Update(update, largest(update, self.density, self._shared), self.code())

    def compress_mean(self, mean: Tensor, sent: Tensor) -> Update:
        return Update(mean, largest(mean, self.density, self._shared), self.code())
