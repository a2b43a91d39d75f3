"""FedBABU (Oh et al., ICLR 2022, arXiv 2106.06042, Algorithm 1): only the body is trained, on a head left as it began.

Shares and sends the body θ, dense; the head ψ stays as it was initialised, the same for everybody, until the evaluation.
    θ_i ← SGD on F_i(θ, ψ), ψ fixed                           θ ← Σ_i (s_i / Σ_k s_k) θ_i
For the evaluation a client fine-tunes what it received, for `finetune_epochs`; that model is measured and dropped.

`accuracy/personalized` measures the fine-tuned model, `accuracy/merged` θ on the untrained head. Published code fine-tunes
after the last round; here the model that a round starts from is fine-tuned before the client trains on, so a
round's accuracy is that of the θ one round before.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS
from fedpurin.methods.fedper import FedPer


@dataclass(kw_only=True, config=OPTIONS)
class FedBABU(FedPer):
    """FedPer without training the head; `extra["personal"]` is the fine-tuned model, which no later round looks at."""

    finetune_epochs: Annotated[int, Field(ge=1)] = 5
    """Epochs of the fine-tuning; the paper has 1 to 20."""
    finetunes: Literal["all", "head", "body"] = "all"
    """What is fine-tuned; the paper compares the three, and takes all of it."""

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        wanted = self.finetunes
        tuned = LocalFit(
            keep=("personal",),
            trains=lambda segment: wanted == "all" or segment.is_head == (wanted == "head"),
            epochs=self.finetune_epochs,
            purpose="fit/personal",
            scored=False,
        )
        return tuned, LocalFit(trains=lambda segment: not segment.is_head)

    def personalized(self, client: Client) -> Tensor:
        return client.extra["personal"]
