"""Sub-FedAvg, unstructured (Vahidian, Morafah & Lin, 2021, arXiv 2105.00562, Algorithm 1): clients prune their own models.

Shares every trainable parameter that the client has not pruned. Each round a client trains its sub-network, and compares
the pruning that it would do after the first epoch with the one after the last: per weight tensor, the smallest `rate` of
what is left. It prunes where the two masks differ by more than `distance` on average (the sub-network still moves), its
accuracy is at least `accuracy`, and less than `target` is pruned:
    m_i ← m_i without the smallest,  w_i ← m_i ⊙ w_i        w_q ← mean of w_i,q over the clients that have kept q
Sending w_i at m_i, receiving w at m_i. As in the authors' code the accuracy is that on the client's test data, here the one
last measured (`trainer.evaluate_every`) before pruning; set `accuracy: 0` to leave test data out of it. The first epoch
is a fit of its own, so a client trains 1 + `trainer.local_epochs`.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.local.client import Client
from fedpurin.local.fit import MODEL, LocalFit
from fedpurin.methods.base import OPTIONS
from fedpurin.methods.partial import Partial
from fedpurin.methods.weights import weight_matrices, without_smallest


@dataclass(kw_only=True, config=OPTIONS)
class SubFedAvg(Partial):
    """FedAvg of sub-networks; `extra["kept"]` is m_i, as ones and zeros."""

    rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of a tensor's remaining weights that a pruning removes."""
    target: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the weights that is pruned in the end."""
    accuracy: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Least accuracy of a client that prunes."""
    distance: Annotated[float, Field(ge=0, le=1)] = 1e-4
    """Least difference of the two masks, a share of their elements."""

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        kept = self.shared_elements(client)
        first = LocalFit(epochs=1, keep=(MODEL, "early"), update_mask=kept, purpose="fit/first", scored=False)
        return first, LocalFit(update_mask=kept)

    def shared_elements(self, client: Client) -> Tensor:
        if "kept" not in client.extra:
            client.extra["kept"] = torch.ones_like(client.vector)
        return client.extra["kept"] > 0

    def conclude(self, client: Client) -> None:
        kept = self.shared_elements(client)
        segments = weight_matrices(self._shared)
        parts = [segment.slice for segment in segments]
        pruned = 1.0 - sum(float(kept[part].sum()) for part in parts) / sum(segment.size for segment in segments)
        share = min(self.rate, (self.target - pruned) / (1.0 - pruned))
        if share <= 0 or not self._is_accurate(client, "personalized", self.accuracy):
            return
        early = without_smallest(client.extra["early"].abs(), kept, share, parts)
        late = without_smallest(client.vector.abs(), kept, share, parts)
        distance = sum(float((early[part] != late[part]).float().mean()) for part in parts) / len(parts)
        if distance > self.distance:
            client.store("kept", late.float())
            client.vector *= late
