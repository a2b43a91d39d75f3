"""FedRep (Collins et al., ICML 2021, Algorithm 1): learn the head for the body received, then the body for that head.

Shares and sends the body φ, dense; keeps the head h. In a round of client i:
    h_i ← several epochs of SGD on the head, φ fixed         φ_i ← SGD on the body, h_i fixed
    φ ← (1/r) Σ_i φ_i                                        over the round's r participants
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS
from fedpurin.methods.fedper import FedPer


@dataclass(kw_only=True, config=OPTIONS)
class FedRep(FedPer):
    """FedPer's sharing with alternating fits. Ten epochs for the head and five for the body are the paper's."""

    head_epochs: Annotated[int, Field(ge=1)] = 10
    body_epochs: Annotated[int, Field(ge=1)] | None = None
    """None takes `trainer.local_epochs`."""
    weighting: Literal["samples", "uniform"] = "uniform"

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        head = LocalFit(
            trains=lambda segment: segment.is_head, epochs=self.head_epochs, purpose="fit/head", scored=False
        )
        body = LocalFit(trains=lambda segment: not segment.is_head, epochs=self.body_epochs)
        return head, body
