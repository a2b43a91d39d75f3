"""Which positions of a block are sent, in the fewest bytes: the block table and the index section.

The format, for each block of n positions, of which k are sent (`costs.Encoding` says which bytes each encoding writes):

    block table entry   count k (2 bytes), skips (1 byte), encoding (1 byte)
    index section       the bytes of that encoding, blocks back to back

A position is written as its *rank* within the block's universe: all its parameters, or, for messages that speak about a
client's critical parameters to that client, only those. A distance is the number of ranks passed over since
the previous one listed; a distance of 255 and more is written in a byte encoding as skips (byte 255: pass over
255 ranks, list none) and a rest. A block takes the encoding with the fewest index bytes, of equals the first.

Always done on the CPU; a packed mask on a GPU is copied, an eighth of a byte a parameter. Blocks that are empty or full
list no rank, and in requests and sums most are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from fedpurin.compiled import njit
from fedpurin.exchange.wire.bits import FULL_WORD, count_words, lowest, popcount, words_of
from fedpurin.exchange.wire.blocks import Span
from fedpurin.exchange.wire.costs import BLOCK_ENTRY_BYTES, BLOCK_SIZE, Encoding
from fedpurin.exchange.wire.header import DecodeError
from fedpurin.parallel import is_parallel, map_items

_BLOCKS_AT_A_TIME = 64
_SKIP = 255
_ONE = np.uint64(1)
_NONE, _DENSE, _BITMAP, _COORDINATE8, _COORDINATE16, _COMPLEMENT16 = (int(encoding) for encoding in Encoding)
_NAMES = [encoding.name.lower() for encoding in Encoding]

_FAULTS = (
    "",
    "bits beyond the block",
    "an index whose positions do not match its count",
    "an index that ends in a skip",
    "a position beyond the block",
)


@dataclass(frozen=True)
class EncodedIndex:
    """What says which positions of a span are sent: its part of the block table and of the index section."""

    table: UInt8[Tensor, " table_bytes"]
    index: UInt8[Tensor, " index_bytes"]
    by_encoding: dict[str, int]
    """Bytes of both, by encoding."""


def encode_index(mask: UInt8[Tensor, " bytes"], universe: UInt8[Tensor, " bytes"], span: Span) -> EncodedIndex:
    """Write which positions of `universe` are in `mask`, a subset of it; both packed, both of `span` alone."""
    return encode_indices(mask.unsqueeze(0), universe, span)[0]


def encode_indices(
    masks: UInt8[Tensor, "messages bytes"], universes: UInt8[Tensor, "*messages bytes"], span: Span
) -> list[EncodedIndex]:
    """`encode_index` of many messages, as if their blocks were one's; one universe for all, or a row for each."""
    if not len(masks):
        return []
    words, within = words_of(masks.cpu().flatten()), words_of(universes.cpu().expand_as(masks).flatten())
    edges = _edges(span, len(masks))
    table = np.zeros(len(edges) - 1, dtype=np.uint32)
    lengths = np.zeros(len(table), dtype=np.int64)

    def run(blocks: tuple[int, int]) -> NDArray[np.uint8]:
        num_words = edges[blocks[1]] - edges[blocks[0]]
        buffer = np.empty(8 * int(num_words), dtype=np.uint8)  # no encoding is longer than a bitmap
        return buffer[: _encode(words, within, edges, table, lengths, *blocks, buffer)]

    index = from_numpy(np.concatenate([np.empty(0, np.uint8), *map_items(run, _groups(len(table)))]))
    message = np.repeat(np.arange(len(masks)), span.num_blocks)
    totals = np.bincount(
        message * len(Encoding) + (table >> 24), lengths + BLOCK_ENTRY_BYTES, minlength=len(masks) * len(Encoding)
    )
    tables = from_numpy(table.view(np.uint8)).to(masks.device).view(len(masks), -1)
    indices = index.to(masks.device).split_with_sizes(lengths.reshape(len(masks), -1).sum(axis=1).tolist())
    counted = totals.astype(int).reshape(len(masks), -1).tolist()
    return [
        EncodedIndex(table, index, {name: num_bytes for name, num_bytes in zip(_NAMES, row, strict=True) if num_bytes})
        for table, index, row in zip(tables, indices, counted, strict=True)
    ]


def decode_index(
    table: UInt8[Tensor, " table_bytes"],
    index: UInt8[Tensor, " index_bytes"],
    universe: UInt8[Tensor, " bytes"],
    span: Span,
) -> UInt8[Tensor, " bytes"]:
    """The packed mask that `encode_index` wrote. A block in an encoding that is not its shortest is understood too.

    Raises:
        DecodeError: bytes that say nothing, or contradict each other, with the number of the offending block.
    """
    return decode_indices([table], [index], universe, span)[0]


def decode_indices(
    tables: Sequence[UInt8[Tensor, " table_bytes"]],
    indices: Sequence[UInt8[Tensor, " index_bytes"]],
    universes: UInt8[Tensor, "*messages bytes"],
    span: Span,
) -> UInt8[Tensor, "messages bytes"]:
    """`decode_index` of many messages: one universe for all, or a row for each. The inverse of `encode_indices`."""
    messages = len(tables)
    if not messages:
        return universes.new_empty(0, universes.shape[-1])
    table, index = torch.cat(list(tables)), torch.cat(list(indices))
    entries = table.cpu().numpy().view(np.uint32).astype(np.int64)
    within = words_of(universes.cpu().expand(messages, -1).flatten())
    edges = _edges(span, messages)
    counts, skips, encodings = entries & 0xFFFF, (entries >> 16) & 0xFF, entries >> 24
    sizes = np.empty(len(entries), dtype=np.int64)
    _count_blocks(within, edges, sizes)
    _refuse(encodings > max(Encoding), span, "unknown encoding")
    _refuse(counts > sizes, span, "more values than positions")
    _refuse((encodings == _NONE) & (counts > 0), span, "values without an encoding")
    _refuse((encodings == _DENSE) & (counts != sizes), span, "a dense block that is not full")
    _refuse((encodings != _COORDINATE8) & (skips > 0), span, "skips in an encoding without skips")
    lengths = np.choose(
        encodings, [0 * counts, 0 * counts, (sizes + 7) // 8, counts + skips, 2 * counts, 2 * (sizes - counts)]
    )
    for announced, found in zip(lengths.reshape(messages, -1).sum(axis=1).tolist(), map(len, indices), strict=True):
        if announced != found:
            raise DecodeError(f"the block table announces {announced} index bytes; there are {found}")
    begins = np.concatenate([[0], np.cumsum(lengths)])
    data, words = index.cpu().numpy(), np.empty(len(within), dtype=np.uint64)
    faults = np.zeros(len(entries), dtype=np.int64)
    map_items(
        lambda blocks: _decode(data, begins, encodings, counts, sizes, within, edges, words, faults, *blocks),
        _groups(len(entries)),
    )
    for fault in range(1, len(_FAULTS)):
        _refuse(faults == fault, span, _FAULTS[fault])
    return from_numpy(words.view(np.uint8)).view(messages, -1).to(index.device)


def _edges(span: Span, messages: int) -> NDArray[np.int64]:
    """Where blocks begin, in words, of so many messages back to back."""
    one = np.cumsum(span.widths) // 64
    starts = np.arange(messages)[:, None] * one[-1]
    return np.concatenate([[0], (starts + one).ravel()])


def _groups(num_blocks: int) -> list[tuple[int, int]]:
    """Blocks that a thread takes at a time, from and to."""
    size = _BLOCKS_AT_A_TIME if is_parallel() else max(num_blocks, 1)
    return [(first, min(first + size, num_blocks)) for first in range(0, num_blocks, size)]


def _refuse(bad: NDArray[np.bool_], span: Span, what: str) -> None:
    if bad.any():
        raise DecodeError(f"block {span.first + int(bad.argmax()) % span.num_blocks}: {what}")


@njit()
def _count_blocks(words: NDArray[np.uint64], edges: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    for block in range(counts.size):
        counts[block] = count_words(words[edges[block] : edges[block + 1]])


@njit()
def _encode(words, universe, edges, table, lengths, first, last, out):  # type: ignore[no-untyped-def]
    """Blocks `first` to `last`, one after the other, into `out`; returns the bytes used."""
    ranks = np.empty(BLOCK_SIZE, dtype=np.int64)
    used = 0
    for block in range(first, last):
        chosen, within = words[edges[block] : edges[block + 1]], universe[edges[block] : edges[block + 1]]
        size, count = count_words(within), count_words(chosen)
        encoding, skips, length = _NONE, 0, 0
        if 0 < count == size:
            encoding = _DENSE
        elif count > 0:
            listed = _list_ranks(chosen, within, ranks)
            encoding, length = _BITMAP, (size + 7) // 8
            if count < length:
                in_bytes = count + _count_skips(listed)
                if in_bytes < length:
                    encoding, length, skips = _COORDINATE8, in_bytes, in_bytes - count
            if 2 * count < length:
                encoding, length, skips = _COORDINATE16, 2 * count, 0
            if 2 * (size - count) < length:
                encoding, length, skips = _COMPLEMENT16, 2 * (size - count), 0
                listed = _list_ranks(within & ~chosen, within, ranks)
            piece = out[used : used + length]
            if encoding == _BITMAP:
                piece[:] = 0
                for rank in listed:
                    piece[rank // 8] |= 1 << (rank % 8)
            else:
                _write_distances(listed, encoding == _COORDINATE8, piece)
        table[block] = np.uint32(count | (skips << 16) | (encoding << 24))
        lengths[block] = length
        used += length
    return used


@njit()
def _decode(data, begins, encodings, counts, sizes, universe, edges, words, faults, first, last):  # type: ignore[no-untyped-def]
    """Blocks `first` to `last`; a fault's number (of `_FAULTS`) for each block, 0 where all is well."""
    ranks = np.empty(BLOCK_SIZE + 1, dtype=np.int64)
    for block in range(first, last):
        chosen, within = words[edges[block] : edges[block + 1]], universe[edges[block] : edges[block + 1]]
        encoding, size, expected = encodings[block], sizes[block], counts[block]
        if encoding == _NONE:
            chosen[:] = np.uint64(0)
        elif encoding == _DENSE:
            chosen[:] = within
        else:
            piece = data[begins[block] : begins[block + 1]]
            if encoding == _BITMAP:
                found, faults[block] = _read_bitmap(piece, size, ranks)
            else:
                found, faults[block] = _read_distances(piece, size, encoding == _COORDINATE8, ranks)
            if encoding == _COMPLEMENT16:
                expected = size - expected
            if faults[block] == 0 and found != expected:
                faults[block] = 2
            if faults[block] == 0:
                _place_ranks(ranks[:found], within, chosen)
                if encoding == _COMPLEMENT16:
                    chosen[:] = within & ~chosen


@njit()
def _list_ranks(words, universe, ranks):  # type: ignore[no-untyped-def]
    """The ranks of the set bits of `words`, ascending: how many bits of `universe` come before each."""
    found, before = 0, np.uint64(0)
    for index in range(words.size):
        word, within = words[index], universe[index]
        while word:
            ranks[found] = before + popcount(within & ((word & (~word + _ONE)) - _ONE))
            found += 1
            word &= word - _ONE
        before += popcount(within)
    return ranks[:found]


@njit()
def _place_ranks(ranks, universe, words):  # type: ignore[no-untyped-def]
    """The inverse of `_list_ranks`."""
    placed, before = 0, 0
    for index in range(words.size):
        within, word = universe[index], np.uint64(0)
        after = before + popcount(within)
        while placed < ranks.size and ranks[placed] < after:
            if within == FULL_WORD:
                word |= _ONE << np.uint64(ranks[placed] - before)
            else:
                while before < ranks[placed]:
                    within &= within - _ONE
                    before += 1
                word |= within & (~within + _ONE)
            placed += 1
        words[index] = word
        before = after


@njit()
def _count_skips(ranks):  # type: ignore[no-untyped-def]
    """Skip bytes that distances between the ranks need."""
    skips, previous = 0, -1
    for rank in ranks:
        skips += (rank - previous - 1) // _SKIP
        previous = rank
    return skips


@njit()
def _write_distances(ranks, in_bytes, out):  # type: ignore[no-untyped-def]
    at, previous = 0, -1
    for rank in ranks:
        distance = rank - previous - 1
        previous = rank
        if in_bytes:
            while distance >= _SKIP:
                out[at] = _SKIP
                at += 1
                distance -= _SKIP
            out[at] = distance
            at += 1
        else:
            out[at], out[at + 1] = distance & 255, distance >> 8
            at += 2


@njit()
def _read_distances(piece: NDArray[np.uint8], size: int, in_bytes: bool, ranks: NDArray[np.int64]) -> tuple[int, int]:
    """Lists ranks; returns how many, and a fault's number or 0."""
    rank, found, at = -1, 0, 0
    while at < piece.size:
        if in_bytes:
            distance = int(piece[at])
            at += 1
        else:
            distance = int(piece[at]) | (int(piece[at + 1]) << 8)
            at += 2
        if in_bytes and distance == _SKIP:
            if at == piece.size:
                return found, 3
            rank += _SKIP
            continue
        rank += distance + 1
        if rank >= size:
            return found, 4
        ranks[found] = rank
        found += 1
    return found, 0


@njit()
def _read_bitmap(piece, size, ranks):  # type: ignore[no-untyped-def]
    """Lists ranks; returns how many, and a fault's number or 0."""
    found = 0
    for first in range(0, piece.size, 8):
        word = np.uint64(0)
        for byte in range(min(8, piece.size - first)):
            word |= np.uint64(piece[first + byte]) << np.uint64(8 * byte)
        while word:
            ranks[found] = 8 * first + np.int64(lowest(word))
            found += 1
            word &= word - _ONE
    return found, 1 if found and ranks[found - 1] >= size else 0
