"""FedPAQ (Reisizadeh et al., AISTATS 2020, arXiv 1909.13014, Algorithm 1): periodic averaging of quantised updates.

Shares every trainable parameter; a client sends its round's update through the unbiased quantiser Q, which is QSGD's
(`fedpurin/exchange/wire/codes.py`), and the server answers in full precision. No error feedback: the errors have mean zero.
    w ← w + Σ_i (s_i / Σ_k s_k) Q(w_i − w)                    (the paper's weights are equal)
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.exchange import Update
from fedpurin.exchange.wire.codes import Stochastic
from fedpurin.local.client import Client
from fedpurin.methods.base import OPTIONS, Round
from fedpurin.methods.compressed import Compressed
from fedpurin.seeding import torch_generator


@dataclass(kw_only=True, config=OPTIONS)
class FedPAQ(Compressed):
    """FedAvg with 8, 4, 2 or 1 bit a value on the way up."""

    bits: Literal[1, 2, 4, 8] = 8
    """Bits a value: 2^(bits−1) − 1 levels and a sign; with one bit the sign alone."""
    bucket: Annotated[int, Field(ge=1)] = 512
    """Values that share a norm of four bytes; 512 is QSGD's choice for four bits."""
    norm: Literal["l2", "max"] = "max"
    """`l2` is the norm of QSGD's analysis, `max` that of its experiments: less noise for few levels."""
    weighting: Literal["samples", "uniform"] = "uniform"

    def code(self) -> Stochastic:
        return Stochastic(self.bits, self.bucket, self.norm)

    def compress(self, client: Client, update: Tensor, this_round: Round) -> Update:
        draws = torch_generator(this_round.seed, "quantise", round_number=this_round.number, client=client.id)
        return Update(update, None, self.code(), draws)

    def compress_mean(self, mean: Tensor, sent: Tensor) -> Update:
        return Update(mean)
