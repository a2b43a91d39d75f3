"""FedBN (Li et al., ICLR 2021, Algorithm 1): normalisation stays with the client, the rest is averaged.

Shares and sends every trainable parameter but those of normalisation layers, dense; keeps those, and the running
statistics, which no method here shares.
    w^(l) ← (1/K) Σ_k w_k^(l)                                for every layer l that does not normalise
"""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from fedpurin.config import ConfigError
from fedpurin.methods.base import OPTIONS
from fedpurin.methods.fedavg import FedAvg
from fedpurin.space import ParameterSpace, Segment


@dataclass(kw_only=True, config=OPTIONS)
class FedBN(FedAvg):
    """FedAvg without the norms. A network that has none is refused: there this would be FedAvg by another name."""

    weighting: Literal["samples", "uniform"] = "uniform"

    def shares(self, segment: Segment) -> bool:
        return not segment.is_norm

    def check(self, space: ParameterSpace, num_participants: int) -> None:
        if not any(segment.is_norm for segment in space.layout):
            raise ConfigError(
                "method=FedBN keeps the parameters of normalisation layers, and this model has none: choose a model "
                "with norms (cnn_norm, resnet8, …), name home-made ones with roles.norm, or take method=fedavg"
            )
