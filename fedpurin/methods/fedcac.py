"""FedCAC (Wu et al., ICCV 2023; arXiv 2309.11103): critical parameters from those whose critical parameters overlap.

Shares every trainable parameter (`share_norm: false`: all but normalisation layers'); sends all of it, dense, and
the mask: the top ⌊τ n_l⌋ of each tensor by c_q = |w_q − w⁰_q|·|w_q|, or, as published, all c_q > 1e-20 where the last of
these is at most 1e-10 (configs/method/fedcac.yaml sets `scores` and `program.open_below`).
With the collaborators C_i of METHOD step 5 (FedCAC's own rule, which FedPURIN took over), and all participants j:
    w_i ← m_i ⊙ (1/|C_i|) Σ_{j∈C_i} w_j + (1 − m_i) ⊙ Σ_j (s_j / Σ_k s_k) w_j
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from fedpurin.exchange import Exchange
from fedpurin.methods.base import OPTIONS, Method, Round
from fedpurin.methods.overlap import Collaboration, collaborators, overlap_matrix
from fedpurin.space import Segment


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class FedCAC(Method):
    """Dense exchange, sorted out by masks: the server merges for every client and sends the result, dense."""

    needs_masks: ClassVar[bool] = True

    beta: Annotated[int, Field(ge=1)] = 100
    """Collaboration horizon, rounds; the paper takes 170 on CIFAR-100."""
    share_norm: bool = True
    """True as published: FedCAC masks and shares normalisation layers too."""

    def shares(self, segment: Segment) -> bool:
        return self.share_norm or not segment.is_norm

    def collaboration(self) -> Collaboration:
        return Collaboration("published", self.beta)

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        masks = exchange.share_masks(this_round.masks)
        overlap = overlap_matrix(torch.stack([masks[client_id] for client_id in this_round.ids]), "published")
        groups = collaborators(overlap, this_round.ids, this_round.number, self.beta)
        exchange.combine_dense(this_round.vectors, masks, groups, weights=this_round.num_train)
        return {"collaboration/partners": sum(len(group) - 1 for group in groups.values()) / len(groups)}
