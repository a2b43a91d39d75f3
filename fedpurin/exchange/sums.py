"""Sums of what clients sent, in one fixed order, METHOD steps 6 and 7; one bucket at a time.

Owns: the order (ascending id, from +0, in float32), compiled for the CPU, and in torch's operations, with the same
bits, for any other device. Does not own: who is summed (`methods/overlap.py`), the client's own value and the division,
which come after the others' sum (`sparse.py`, `dense.py`).

Clients are rows here, with zeros where they sent nothing: adding +0 changes no bit, since values are finite and no
partial sum is −0. In torch operations every row is added to all results at once, times zero or one, so their number
grows with the clients and not with their pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float32, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.compiled import njit
from fedpurin.exchange.wire.bits import words_of
from fedpurin.parallel import map_chunks

TILE = 512
"""Positions, 2 KiB a row: the rows of twenty clients stay in a first- or second-level cache."""
_CHUNK = 1 << 16
"""Positions, or words of masks, that a thread takes at a time."""


class Groups:
    """For each result the rows that make it up, ascending."""

    def __init__(self, groups: Iterable[Iterable[int]]) -> None:
        members = [list(rows) for rows in groups]
        self.edges: NDArray[np.int64] = np.cumsum([0, *map(len, members)])
        """Where each result's rows begin in `rows`."""
        self.rows: NDArray[np.int64] = np.array([row for rows in members for row in rows], dtype=np.int64)

    def of_row(self, num_rows: int, like: Tensor) -> Shaped[Tensor, "rows results"]:
        """For each row 1 for the results that it is part of, of the type of `like`."""
        results = len(self.edges) - 1
        member = np.zeros((num_rows, results), dtype=np.uint8)
        member[self.rows, np.repeat(np.arange(results), np.diff(self.edges))] = 1
        return torch.from_numpy(member).to(like.device, like.dtype)


def add_up(
    rows: Shaped[Tensor, "rows positions"], groups: Groups, out: Shaped[Tensor, "results positions"]
) -> Shaped[Tensor, "results positions"]:
    """Write Σ over each group's rows into `out`: float32, or int16 for rows of zeros and ones."""
    if rows.device.type != "cpu":
        return add_up_in_torch(rows, groups, out)
    source, target = rows.numpy(), out.numpy()
    map_chunks(
        lambda first, last: _add_up(source, groups.edges, groups.rows, target, first, last), rows.shape[1], _CHUNK
    )
    return out


def add_up_in_torch(rows: Tensor, groups: Groups, out: Tensor) -> Tensor:
    """`add_up` in torch's operations, for every device."""
    out.zero_()
    for row, member in zip(rows, groups.of_row(len(rows), rows), strict=True):
        out += member[:, None] * row
    return out


@njit()
def _add_up(rows, edges, members, out, begin, end):  # type: ignore[no-untyped-def]
    """Tile by tile, so that each is read from memory once, however many results it is part of."""
    for first in range(begin, end, TILE):
        last = min(first + TILE, end)
        for k in range(out.shape[0]):
            total = out[k, first:last]
            total[:] = 0
            for member in range(edges[k], edges[k + 1]):
                row = rows[members[member], first:last]
                for q in range(total.size):
                    total[q] += row[q]


def unite(masks: UInt8[Tensor, "rows bytes"], groups: Groups, within: Sequence[int]) -> UInt8[Tensor, "results bytes"]:
    """The positions of row `within[k]` that some member of group k has too; on the CPU, from where it is copied back."""
    words = words_of(masks.reshape(-1)).reshape(len(masks), masks.shape[1] // 8)
    result = words[list(within)]
    _unite(words, groups.edges, groups.rows, result)
    return torch.from_numpy(result.view(np.uint8)).to(masks.device)


@njit()
def _unite(
    words: NDArray[np.uint64], edges: NDArray[np.int64], members: NDArray[np.int64], result: NDArray[np.uint64]
) -> None:
    union = np.empty(words.shape[1], dtype=np.uint64)
    for k in range(result.shape[0]):
        union[:] = 0
        for member in range(edges[k], edges[k + 1]):
            row = words[members[member]]
            for index in range(union.size):
                union[index] |= row[index]
        for index in range(union.size):
            result[k, index] &= union[index]


def weigh(rows: Float32[Tensor, "rows positions"], weights: Sequence[float]) -> Float32[Tensor, " positions"]:
    """Σ over all rows of weight times row; weights are rounded to float32 first, each product before it is added."""
    total, product = torch.zeros_like(rows[0]), torch.empty_like(rows[0])
    for row, weight in zip(rows, torch.tensor(weights, dtype=torch.float32, device=rows.device), strict=True):
        total += torch.mul(row, weight, out=product)
    return total
