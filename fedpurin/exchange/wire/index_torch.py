"""The block table and the index section in terms of torch operations, on any device.

The same functions, compiled for the CPU, are in `index_cpu.py`; `index.py` chooses. See there for the format.
Each element of the universe gets its block number and its place inside the block; everything after that is
sorting those elements by encoding, differences, cumulative sums and scatters. That takes some 70 bytes an element, so
blocks are done in groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fedpurin.exchange.wire.blocks import EncodedIndex, Span
from fedpurin.exchange.wire.costs import BLOCK_ENTRY_BYTES, Encoding
from fedpurin.exchange.wire.header import DecodeError
from fedpurin.space import unpack_mask

BLOCKS_AT_A_TIME = 64
"""A group has at most a million parameters."""
_SKIP = 255
_IMPOSSIBLE = torch.iinfo(torch.int64).max
_SET_BITS = torch.tensor([bin(byte).count("1") for byte in range(256)])
_SPACED = (Encoding.COORDINATE8, Encoding.COORDINATE16, Encoding.COMPLEMENT16)


@dataclass(frozen=True)
class _Places:
    """The universe's elements in ascending order: their offset in the span, block, and place within the block."""

    offset: Tensor
    block: Tensor
    place: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, universe: Tensor, span: Span) -> _Places:
        device = universe.device
        offset = unpack_mask(universe).nonzero().squeeze(1)
        ends = torch.as_tensor(span.widths, device=device).cumsum(0)
        block = torch.bucketize(offset, ends, right=True)
        sizes = torch.bincount(block, minlength=span.num_blocks)
        first = sizes.cumsum(0) - sizes
        place = torch.arange(offset.numel(), device=device) - first[block]
        return cls(offset, block, place, sizes)


def encode_index(mask: UInt8[Tensor, " bytes"], universe: UInt8[Tensor, " bytes"], span: Span) -> EncodedIndex:
    """Write which positions of `universe` are in `mask`; see `index.encode_index`."""
    parts = [_encode(_part(mask, group, span), _part(universe, group, span), group) for group in _groups(span)]
    totals = [sum(part.encoding_bytes[encoding] for part in parts) for encoding in range(len(Encoding))]
    nothing = mask[:0]
    table, index = ([nothing, *(getattr(part, name) for part in parts)] for name in ("table", "index"))
    return EncodedIndex(torch.cat(table), torch.cat(index), totals)


def _groups(span: Span) -> Iterator[Span]:
    edges = span.start + np.concatenate([[0], np.cumsum(span.widths)])
    for first in range(0, span.num_blocks, BLOCKS_AT_A_TIME):
        last = min(first + BLOCKS_AT_A_TIME, span.num_blocks)
        yield Span(span.first + first, span.first + last, int(edges[first]), int(edges[last]), span.widths[first:last])


def _part(packed: Tensor, group: Span, span: Span) -> Tensor:
    return packed[(group.start - span.start) // 8 : (group.stop - span.start) // 8]


def _encode(mask: Tensor, universe: Tensor, span: Span) -> EncodedIndex:
    places = _Places.of(universe, span)
    member = unpack_mask(mask)[places.offset]
    sent = _Spacing.of(places, member)
    absent = _Spacing.of(places, ~member)
    counts, sizes = sent.counts, places.sizes
    skips = torch.zeros_like(sizes).scatter_add_(0, sent.block, sent.delta // _SKIP)
    lengths = torch.stack(
        [
            torch.where(counts == 0, 0, _IMPOSSIBLE),
            torch.where((counts == sizes) & (sizes > 0), 0, _IMPOSSIBLE),
            (sizes + 7) // 8,
            counts + skips,
            2 * counts,
            2 * (sizes - counts),
        ]
    )
    encoding = lengths.argmin(0)  # the first of equals: ties go to the lowest encoding
    length = lengths.gather(0, encoding.unsqueeze(0)).squeeze(0)
    begins = length.cumsum(0) - length
    index = torch.zeros(int(length.sum().item()), dtype=torch.uint8, device=mask.device)

    chosen = encoding[places.block]
    bitmap = (chosen == Encoding.BITMAP) & member
    byte = begins[places.block[bitmap]] + places.place[bitmap] // 8
    index.scatter_add_(0, byte, (1 << (places.place[bitmap] % 8)).to(torch.uint8))
    _write_bytes(index, begins, sent.only(encoding == Encoding.COORDINATE8))
    _write_words(index, begins, sent.only(encoding == Encoding.COORDINATE16))
    _write_words(index, begins, absent.only(encoding == Encoding.COMPLEMENT16))

    skips = torch.where(encoding == Encoding.COORDINATE8, skips, 0)
    entries = counts | (skips << 16) | (encoding << 24)
    weights = torch.zeros(len(Encoding), dtype=torch.int64, device=mask.device)
    weights.scatter_add_(0, encoding, length + BLOCK_ENTRY_BYTES)
    return EncodedIndex(entries.to(torch.int32).view(torch.uint8), index, weights.tolist())


@dataclass(frozen=True)
class _Spacing:
    """Chosen elements in ascending order: block, number within the block, unchosen elements just before."""

    block: Tensor
    number: Tensor
    delta: Tensor
    counts: Tensor

    @classmethod
    def of(cls, places: _Places, member: Tensor) -> _Spacing:
        block, place = places.block[member], places.place[member]
        counts = torch.bincount(block, minlength=places.sizes.numel())
        number = torch.arange(block.numel(), device=block.device) - (counts.cumsum(0) - counts)[block]
        before = torch.where(number == 0, -1, place.roll(1))
        return cls(block, number, place - before - 1, counts)

    def only(self, blocks: Tensor) -> _Spacing:
        keep = blocks[self.block]
        return _Spacing(self.block[keep], self.number[keep], self.delta[keep], torch.where(blocks, self.counts, 0))


def _write_bytes(index: Tensor, begins: Tensor, spacing: _Spacing) -> None:
    """Distances in bytes: 255 for each 255 positions skipped, then the rest."""
    length = spacing.delta // _SKIP + 1
    block_total = torch.zeros_like(begins).scatter_add_(0, spacing.block, length)
    first = (block_total.cumsum(0) - block_total)[spacing.block]
    last = begins[spacing.block] + length.cumsum(0) - first - 1
    index.scatter_(0, last, (spacing.delta % _SKIP).to(torch.uint8))
    skips = torch.repeat_interleave(last - length + 1, length - 1)
    within = torch.arange(skips.numel(), device=index.device)
    runs = (length - 1).cumsum(0) - (length - 1)
    within = within - torch.repeat_interleave(runs, length - 1)
    index.index_fill_(0, skips + within, _SKIP)


def _write_words(index: Tensor, begins: Tensor, spacing: _Spacing) -> None:
    """Distances in two bytes each, low byte first."""
    at = begins[spacing.block] + 2 * spacing.number
    index.scatter_(0, at, (spacing.delta & 0xFF).to(torch.uint8))
    index.scatter_(0, at + 1, (spacing.delta >> 8).to(torch.uint8))


def decode_index(
    table: UInt8[Tensor, " 4*blocks"],
    index: UInt8[Tensor, " index_bytes"],
    universe: UInt8[Tensor, " bytes"],
    span: Span,
) -> UInt8[Tensor, " bytes"]:
    """The inverse of `encode_index`; see `index.decode_index`."""
    entries = table.view(torch.int32).to(torch.int64)
    counts, skips, encoding = entries & 0xFFFF, (entries >> 16) & 0xFF, (entries >> 24) & 0xFF
    sizes = _count_blocks(universe, span)
    _refuse(encoding > max(Encoding), span, "unknown encoding")
    _refuse(counts > sizes, span, "more values than positions")
    _refuse((encoding == Encoding.NONE) & (counts > 0), span, "values without an encoding")
    _refuse((encoding == Encoding.DENSE) & (counts != sizes), span, "a dense block that is not full")
    _refuse((encoding != Encoding.COORDINATE8) & (skips > 0), span, "skips in an encoding without skips")
    lengths = torch.stack(
        [torch.zeros_like(counts)] * 2 + [(sizes + 7) // 8, counts + skips, 2 * counts, 2 * (sizes - counts)]
    )
    length = lengths.gather(0, encoding.unsqueeze(0)).squeeze(0)
    total = int(length.sum().item())
    if total != index.numel():
        raise DecodeError(f"the block table announces {total} index bytes; there are {index.numel()}")
    parts, read = [universe[:0]], 0
    for group in _groups(span):
        own = slice(group.first - span.first, group.last - span.first)
        num_bytes = int(length[own].sum().item())
        parts.append(
            _decode(
                counts[own], encoding[own], length[own], index[read : read + num_bytes],
                _part(universe, group, span), group,
            )
        )  # fmt: skip
        read += num_bytes
    return torch.cat(parts)


def _count_blocks(universe: Tensor, span: Span) -> Tensor:
    """Positions of the universe in each block."""
    total = _SET_BITS.to(universe.device)[universe.int()].cumsum(0)
    last = torch.as_tensor(np.cumsum(span.widths) // 8 - 1, device=universe.device)
    return total[last].diff(prepend=total.new_zeros(1))


def _decode(counts: Tensor, encoding: Tensor, length: Tensor, index: Tensor, universe: Tensor, span: Span) -> Tensor:
    places = _Places.of(universe, span)
    sizes = places.sizes
    begins = length.cumsum(0) - length

    chosen = encoding[places.block]
    member = chosen == Encoding.DENSE
    bitmap = chosen == Encoding.BITMAP
    byte = index[begins[places.block[bitmap]] + places.place[bitmap] // 8]
    member[bitmap] = (byte >> (places.place[bitmap] % 8).to(torch.uint8)) & 1 == 1
    is_bitmap = encoding == Encoding.BITMAP
    _refuse(is_bitmap & _has_tail(index, begins, sizes, is_bitmap), span, "bits beyond the block")

    first = sizes.cumsum(0) - sizes
    for kind in _SPACED:
        blocks = encoding == kind
        block, place = _read_places(index, begins, torch.where(blocks, length, 0), counts, span, kind, sizes)
        at = first[block] + place
        if kind == Encoding.COMPLEMENT16:
            member |= blocks[places.block]
            member[at] = False
        else:
            member[at] = True
    found = torch.bincount(places.block[member], minlength=span.num_blocks)
    _refuse(found != counts, span, "an index whose positions do not match its count")
    bits = torch.zeros(span.stop - span.start, dtype=torch.bool, device=index.device)
    bits[places.offset] = member
    weights = 1 << torch.arange(8, dtype=torch.uint8, device=index.device)
    return (bits.view(-1, 8).to(torch.uint8) * weights).sum(1, dtype=torch.uint8)


def _read_places(
    index: Tensor, begins: Tensor, length: Tensor, counts: Tensor, span: Span, kind: Encoding, sizes: Tensor
) -> tuple[Tensor, Tensor]:
    """Block and place of every position that the blocks of one distance encoding list."""
    width = 1 if kind == Encoding.COORDINATE8 else 2
    num_items = length // width
    block = torch.repeat_interleave(torch.arange(span.num_blocks, device=index.device), num_items)
    item_first = num_items.cumsum(0) - num_items
    at = begins[block] + width * (torch.arange(block.numel(), device=index.device) - item_first[block])
    delta = index[at].to(torch.int64)
    if width == 2:
        delta = delta | (index[at + 1].to(torch.int64) << 8)
        ends_item = torch.ones_like(delta, dtype=torch.bool)
    else:
        ends_item = delta != _SKIP
        found = torch.bincount(block[ends_item], minlength=span.num_blocks)
        _refuse((num_items > 0) & (found != counts), span, "an index whose positions do not match its count")
        last = item_first + num_items - 1
        trailing = torch.zeros_like(num_items, dtype=torch.bool)
        filled = num_items > 0
        trailing[filled] = ~ends_item[last[filled]]
        _refuse(trailing, span, "an index that ends in a skip")
    steps = delta + ends_item
    total = steps.cumsum(0)
    before = torch.where(item_first > 0, total[(item_first - 1).clamp(min=0)], 0) if total.numel() else item_first
    place = total - before[block] - 1
    block, place = block[ends_item], place[ends_item]
    outside = torch.bincount(block[place >= sizes[block]], minlength=span.num_blocks) > 0
    _refuse(outside, span, "a position beyond the block")
    return block, place


def _has_tail(index: Tensor, begins: Tensor, sizes: Tensor, bitmap: Tensor) -> Tensor:
    """Whether a bitmap block's last byte has bits set past the block's size."""
    rest = sizes % 8
    partial = bitmap & (rest > 0)
    result = torch.zeros_like(bitmap)
    byte = index[(begins + sizes // 8)[partial]].to(torch.int64)
    result[partial] = (byte >> rest[partial]) > 0
    return result


def _refuse(bad: Tensor, span: Span, what: str) -> None:
    if bool(bad.any()):
        raise DecodeError(f"block {span.first + int(bad.int().argmax().item())}: {what}")
