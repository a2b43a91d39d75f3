"""Sparse sums in one fixed order, METHOD step 6: other collaborators in ascending id, in float32.

Owns: the sums, counts and weighted sums over one bucket's rows. Does not own: who is summed (`aggregation.py`),
adding a client's own value and dividing (the server or the client does, `sparse.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from fedpurin.exchange.bits import compress, expand_into
from fedpurin.space import unpack_mask


class BucketRows:
    """The values that arrived for one bucket, by client, ready to be summed."""

    def __init__(
        self, sent: Mapping[int, UInt8[Tensor, " bytes"]], values: Mapping[int, Float32[Tensor, " sent"]]
    ) -> None:
        self._sent = dict(sent)
        self._rows: dict[int, Tensor] = {}
        for client, packed in sent.items():
            row = torch.zeros(8 * packed.numel(), dtype=torch.float32, device=packed.device)
            expand_into(row, packed, values[client])
            self._rows[client] = row

    def sums(self, others: Sequence[int], at: UInt8[Tensor, " bytes"]) -> Float32[Tensor, " at"]:
        """Σ over `others`, ascending, of what each sent, at the positions of `at`."""
        total = torch.zeros(8 * at.numel(), dtype=torch.float32, device=at.device)
        for client in others:
            total += self._rows[client]
        return compress(total, at)

    def counts(self, others: Sequence[int], at: UInt8[Tensor, " bytes"]) -> Float32[Tensor, " at"]:
        """How many of `others` sent a value, at the positions of `at`."""
        total = torch.zeros(8 * at.numel(), dtype=torch.float32, device=at.device)
        for client in others:
            total += unpack_mask(self._sent[client])
        return compress(total, at)

    def weighted(self, weights: Mapping[int, float], at: UInt8[Tensor, " bytes"]) -> Float32[Tensor, " at"]:
        """Σ over all clients, ascending, of weight times what each sent, at the positions of `at`."""
        total = torch.zeros(8 * at.numel(), dtype=torch.float32, device=at.device)
        for client in sorted(self._rows):
            total += self._rows[client] * torch.tensor(weights[client], dtype=torch.float32, device=at.device)
        return compress(total, at)

    def row(self, client: int, at: UInt8[Tensor, " bytes"]) -> Float32[Tensor, " at"]:
        """What `client` sent, zero where it sent nothing, at the positions of `at`."""
        return compress(self._rows[client], at)
