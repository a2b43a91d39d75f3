"""Which rows make up each result: what the sums and both of their implementations are told.

Owns the record `Groups`. Does not own: the sums (`sums.py`), who is summed (`methods/overlap.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """For each result the rows that make it up, ascending."""

    members: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, lists: Iterable[Iterable[int]]) -> Groups:
        return cls(tuple(tuple(rows) for rows in lists))

    @cached_property
    def edges(self) -> NDArray[np.int64]:
        """Where each result's rows begin in `flat`."""
        return np.cumsum([0, *map(len, self.members)], dtype=np.int64)

    @cached_property
    def flat(self) -> NDArray[np.int64]:
        return np.array([row for rows in self.members for row in rows], dtype=np.int64)

    def matrix(self, num_rows: int, device: torch.device) -> Bool[Tensor, "results rows"]:
        """Membership as a matrix."""
        matrix = torch.zeros(len(self.members), num_rows, dtype=torch.bool)
        matrix[np.repeat(np.arange(len(self.members)), np.diff(self.edges)), self.flat] = True
        return matrix.to(device)
