"""Top-k with error feedback (Stich et al., NeurIPS 2018, arXiv 1809.07599, Algorithm 2), after local training.

Shares every trainable parameter. The paper compresses single gradients, η∇f; here, as in every federated use of it,
the update of a whole round takes their place. Sends the k entries of largest magnitude, k = ⌊density·n⌋ of all tensors
together, as mask and values; the server answers with the mean, where it is not zero.
    u_i = w_i − w + e_i        c_i = top_k(u_i)        e_i ← u_i − c_i        w ← w + Σ_i (s_i / Σ_k s_k) c_i
With `bits` what is sent is quantised as well, c_i = Q(top_k(u_i)) with QSGD's Q (`fedpurin/exchange/wire/codes.py`), and e_i
keeps both losses (Qsparse-local-SGD, Basu et al., NeurIPS 2019, arXiv 1906.02367); the answer stays as it is.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.exchange import Update
from fedpurin.exchange.wire.codes import Stochastic
from fedpurin.local.client import Client
from fedpurin.methods.base import OPTIONS, Round
from fedpurin.methods.compressed import Compressed, largest
from fedpurin.seeding import torch_generator


@dataclass(kw_only=True, config=OPTIONS)
class TopK(Compressed):
    """The plainest rival of every sparse method: fewest values, one model for everybody."""

    keeps_error: ClassVar[bool] = True

    density: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the parameters that a client sends."""

    bits: Literal[4, 8] | None = None
    """Bits a value on the way up, rounded at random, and four bytes for every 512 values; None: `exchange.value_dtype`.
    With fewer, what rounding adds can exceed what is sent, and error feedback would not converge."""

    def code(self) -> Stochastic | None:
        return None if self.bits is None else Stochastic(self.bits)

    def compress(self, client: Client, update: Tensor, this_round: Round) -> Update:
        mask = largest(update, self.density, self._shared)
        draws = torch_generator(this_round.seed, "quantise", round_number=this_round.number, client=client.id)
        return Update(update, mask, self.code(), draws)
