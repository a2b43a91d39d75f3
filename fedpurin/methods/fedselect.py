"""FedSelect (Tamirisa et al., CVPR 2024, arXiv 2404.02478, Algorithm 1): what changes most becomes personal.

Shares every trainable parameter that has not become personal; m_i marks the client's personal elements, none at first.
    w_i ← SGD on the elements of m_i, the others fixed, then on the others, m_i's fixed          (LocalAlt)
    w_q ← mean of w_i,q over the clients for which q is not personal                      received where it sent
    m_i ← m_i and, of each weight tensor, the `rate` of its other elements whose |w_i − w_i at the round's start| is largest,
          unless more than `limit` of the tensor is personal already
Each fit takes `trainer.local_epochs`; the authors' code alternates after every epoch. Values that nobody sends stay.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS
from fedpurin.methods.partial import Partial
from fedpurin.methods.weights import weight_matrices


@dataclass(kw_only=True, config=OPTIONS)
class FedSelect(Partial):
    """A sparse mean of what is left in common; `extra["personal"]` is m_i, as ones and zeros."""

    rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of a tensor's common elements that become personal in a round."""
    limit: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Share of a tensor beyond which no further element becomes personal."""

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        common = self.shared_elements(client)
        client.store("start", client.vector)
        if not bool(client.extra["personal"].any()):
            return (LocalFit(),)
        personal = LocalFit(update_mask=~common, purpose="fit/personal", scored=False)
        return personal, LocalFit(update_mask=common)

    def shared_elements(self, client: Client) -> Tensor:
        if "personal" not in client.extra:
            client.extra["personal"] = torch.zeros_like(client.vector)
        return client.extra["personal"] == 0

    def choose(self, client: Client) -> None:
        change = (client.vector - client.extra["start"]).abs()
        personal = client.extra["personal"]
        for segment in weight_matrices(self._shared):
            part = personal[segment.slice]
            if float(part.mean()) > self.limit:
                continue
            common = torch.nonzero(part == 0).squeeze(1)
            most = change[segment.slice][common].topk(round(self.rate * len(common))).indices
            part[common[most]] = 1.0
