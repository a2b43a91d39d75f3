"""Where the blocks of a layout lie in the flat vector, and which runs of blocks make a bucket.

Owns: block offsets and sizes, buckets. Does not own: what a block looks like on the wire (`index.py`).

A tensor is cut into blocks of BLOCK_SIZE parameters, its last one shorter, so no block straddles two tensors. A
block's *width* is its size plus the padding that follows it; widths are multiples of 64, so a block covers whole
64-bit words of a packed mask, and the blocks together cover the vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.exchange.wire.costs import BLOCK_SIZE
from fedpurin.space import Layout, pack_mask


@dataclass(frozen=True)
class Span:
    """A run of whole blocks `[first, last)`: elements `[start, stop)` of the flat vector."""

    first: int
    last: int
    start: int
    stop: int
    widths: NDArray[np.int64]
    """Elements that each block covers, padding included."""

    def packed(self, mask: UInt8[Tensor, " packed"]) -> UInt8[Tensor, " bytes"]:
        """This span's bytes of a packed mask, as a view."""
        return mask[self.start // 8 : self.stop // 8]

    def of(self, vector: Shaped[Tensor, " any_length"]) -> Shaped[Tensor, " positions"]:
        """This span's elements of a vector, as a view."""
        return vector[self.start : self.stop]

    def rows(self, memory: Shaped[Tensor, " any_length"], num_rows: int) -> Shaped[Tensor, "rows positions"]:
        """The beginning of `memory` as so many rows of this span's length."""
        return memory[: num_rows * (self.stop - self.start)].view(num_rows, self.stop - self.start)

    @property
    def num_blocks(self) -> int:
        return self.last - self.first


class BlockGrid:
    """The blocks of one layout."""

    def __init__(self, layout: Layout) -> None:
        starts = [segment.offset + begin for segment in layout for begin in range(0, segment.size, BLOCK_SIZE)]
        self.layout = layout
        self._parameters: dict[torch.device, Tensor] = {}
        self.edges: NDArray[np.int64] = np.array([*starts, layout.length], dtype=np.int64)

    @property
    def num_blocks(self) -> int:
        return len(self.edges) - 1

    @cached_property
    def whole(self) -> Span:
        """All blocks as one span."""
        return self.span(0, self.num_blocks)

    def parameters(self, device: torch.device) -> UInt8[Tensor, " packed"]:
        """The packed mask of all parameters: the universe of messages that are not relative to another mask."""
        if device not in self._parameters:
            self._parameters[device] = pack_mask(self.layout.parameter_mask()).to(device)
        return self._parameters[device]

    def span(self, first: int, last: int) -> Span:
        edges = self.edges[first : last + 1]
        return Span(first, last, int(edges[0]), int(edges[-1]), np.diff(edges))

    def buckets(self, max_elements: int) -> Iterator[Span]:
        """Cut the blocks into spans of at most `max_elements` elements, but at least one block each."""
        first = 0
        while first < self.num_blocks:
            fitting = int(np.searchsorted(self.edges, self.edges[first] + max_elements, side="right")) - 1
            last = max(fitting, first + 1)
            yield self.span(first, last)
            first = last


@lru_cache(maxsize=16)
def grid_of(layout: Layout) -> BlockGrid:
    """The blocks of `layout`, computed once."""
    return BlockGrid(layout)
