"""Sums of what clients sent, in one fixed order, METHOD steps 6 and 7; one bucket at a time.

Owns: the order (other collaborators in ascending id, then the client's own value, then the division; all in
float32), and the choice between the CPU kernels (`sums_cpu.py`) and torch operations (`sums_torch.py`), which give
the same bits. Does not own: who is summed (`methods/overlap.py`), what is sent (`sparse.py`).

Clients are rows here: row r of `sent` says which positions of the bucket client r sent, packed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int16, UInt8
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.exchange import sums_cpu, sums_torch


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


def unions(masks: UInt8[Tensor, "rows bytes"], groups: Groups, within: Sequence[int]) -> UInt8[Tensor, "results bytes"]:
    """The positions of row `within[k]` that some member of group k has too."""
    return _implementation(masks).unions(masks, groups, within)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class BucketRows:
    """What arrived for one bucket: `values` holds each row's values, ascending, row after row."""

    sent: UInt8[Tensor, "rows bytes"]
    values: Float32[Tensor, " sent"]

    def sums(
        self,
        groups: Groups,
        own: Sequence[int],
        at: UInt8[Tensor, "results bytes"],
        finished: UInt8[Tensor, "results bytes"],
        divisors: Sequence[int] | None,
        room: Float32[Tensor, " room"] | None = None,
    ) -> tuple[list[Float32[Tensor, " at"]], list[Int16[Tensor, " unfinished"]]]:
        """Σ over group k of what its rows sent, at the positions `at[k]`.

        Where `finished[k]`, row `own[k]`'s own value is added, and the result divided by `divisors[k]`, or without
        `divisors` by the number of rows that sent a value there, own included. Without `divisors` the second
        result is that number at the other positions of `at[k]`, else empty. The sums may be written into `room`.
        """
        return _implementation(self.sent).sums(  # type: ignore[no-any-return]
            self.sent, self.values, groups, own, at, finished, divisors, room
        )

    def weighted(self, weights: Sequence[float]) -> Float32[Tensor, " positions"]:
        """Σ over all rows of weight times what the row sent, at every position; weights rounded to float32 first."""
        rounded = torch.tensor(weights, dtype=torch.float32)
        return _implementation(self.sent).weighted(self.sent, self.values, rounded)  # type: ignore[no-any-return]


def merge_own(
    part: Float32[Tensor, " positions"],
    mask: UInt8[Tensor, " bytes"],
    at: UInt8[Tensor, " bytes"],
    finished: UInt8[Tensor, " bytes"],
    values: Float32[Tensor, " at"],
    divisor: int | None,
    counts: Int16[Tensor, " unfinished"],
) -> None:
    """The client's side: replace the critical values of `part`, in place.

    At `at` it received `values`: the finished value at `finished`, elsewhere the others' sum, to which it adds its
    own and divides by `divisor`, or without one by `counts`. At other positions of `mask` nobody else sent
    anything: the sum is zero, the number of contributors one.
    """
    _implementation(part).merge_own(part, mask, at, finished & at, values, divisor, counts)


def _implementation(like: Tensor) -> ModuleType:
    return sums_cpu if like.device.type == "cpu" else sums_torch
