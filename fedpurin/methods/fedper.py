"""FedPer (Arivazhagan et al., arXiv 1912.00818, Algorithms 1 and 2): a common body, every client its own head.

Shares and sends the body (base layers W_B), dense; keeps the head (personalisation layers W_P).
    (W_B, W_P)_i ← SGD on both together                      W_B ← Σ_i (s_i / Σ_k s_k) W_B,i
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from fedpurin.methods.base import OPTIONS, require_head
from fedpurin.methods.fedavg import FedAvg
from fedpurin.space import ParameterSpace, Segment


@dataclass(kw_only=True, config=OPTIONS)
class FedPer(FedAvg):
    """FedAvg of everything but the head. The head is the last linear layer, or what `roles.head` names."""

    def shares(self, segment: Segment) -> bool:
        return not segment.is_head

    def check(self, space: ParameterSpace, num_participants: int) -> None:
        require_head(self, space)
