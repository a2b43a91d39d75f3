"""Which positions of a block are sent, in the fewest bytes: the block table and the index section.

The format, for each block of n positions, of which k are sent (`costs.Encoding` says which bytes each encoding writes):

    block table entry   count k (2 bytes), skips (1 byte), encoding (1 byte)
    index section       the bytes of that encoding, blocks back to back

*Position* is a number within the block's universe: all its parameters, or, for messages that speak about a
client's critical parameters to that client, only those. A distance is the number of positions passed over since
the previous one listed; a distance of 255 and more is written in a byte encoding as skips (byte 255: pass over
255 positions, list none) and a rest. A block takes the encoding with the fewest index bytes, of equals the first.

Always done on the CPU; a packed mask on a GPU is copied, an eighth of a byte a parameter. A block is first brought into
its compact form (`compact.py`). Blocks that are empty or full need none, and in requests and sums most are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from fedpurin.compiled import njit
from fedpurin.exchange.wire.bits import count_words, words_of
from fedpurin.exchange.wire.blocks import EncodedIndex, Span
from fedpurin.exchange.wire.compact import PDEP, PEXT, gather_bits, spread_bits
from fedpurin.exchange.wire.costs import BLOCK_ENTRY_BYTES, BLOCK_SIZE, Encoding
from fedpurin.exchange.wire.header import DecodeError
from fedpurin.exchange.wire.lanes import popcount
from fedpurin.parallel import is_parallel, map_items

_BLOCKS_AT_A_TIME = 64
_SCRATCH_WORDS = BLOCK_SIZE // 64 + 1
_SKIP = 255
_ONE = np.uint64(1)

_NONE, _DENSE, _BITMAP, _COORDINATE8, _COORDINATE16, _COMPLEMENT16 = (int(encoding) for encoding in Encoding)

_FAULTS = (
    "",
    "bits beyond the block",
    "an index whose positions do not match its count",
    "an index that ends in a skip",
    "a position beyond the block",
)


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

    def run(blocks: range) -> NDArray[np.uint8]:
        first, last = blocks.start, blocks.stop
        buffer = np.empty(8 * int(edges[last] - edges[first]), dtype=np.uint8)  # no encoding is longer than a bitmap
        used = _encode(words, within, edges[first : last + 1], PEXT, buffer, table[first:last], lengths[first:last])
        return buffer[:used]

    pieces = map_items(run, _groups(len(table)))
    index = np.concatenate(pieces) if len(pieces) != 1 else pieces[0]
    message = np.repeat(np.arange(len(masks)), span.num_blocks)
    totals = np.bincount(
        message * len(Encoding) + (table >> 24), lengths + BLOCK_ENTRY_BYTES, minlength=len(masks) * len(Encoding)
    )
    tables = from_numpy(table.view(np.uint8)).to(masks.device).view(len(masks), -1)
    indices = from_numpy(index).to(masks.device).split_with_sizes(lengths.reshape(len(masks), -1).sum(axis=1).tolist())
    return [
        EncodedIndex(*encoded)
        for encoded in zip(tables, indices, totals.astype(int).reshape(len(masks), -1).tolist(), strict=True)
    ]


def _edges(span: Span, messages: int) -> NDArray[np.int64]:
    """Where blocks begin, in words, of so many messages back to back."""
    one = np.cumsum(span.widths) // 64
    starts = np.arange(messages)[:, None] * one[-1]
    return np.concatenate([[0], (starts + one).ravel()])


def _groups(num_blocks: int) -> list[range]:
    size = _BLOCKS_AT_A_TIME if is_parallel() else max(num_blocks, 1)
    return [range(first, min(first + size, num_blocks)) for first in range(0, num_blocks, size)]


@njit()
def _encode(
    words: NDArray[np.uint64],
    universe: NDArray[np.uint64],
    edges: NDArray[np.int64],
    pext: NDArray[np.uint8],
    out: NDArray[np.uint8],
    table: NDArray[np.uint32],
    lengths: NDArray[np.int64],
) -> int:
    """Blocks between `edges` (in words), one after the other, into `out`; returns the bytes used."""
    compact = np.empty(_SCRATCH_WORDS, dtype=np.uint64)
    used = 0
    for block in range(table.size):
        first, last = edges[block], edges[block + 1]
        size = int(count_words(universe[first:last]))
        count = int(count_words(words[first:last]))
        encoding, skips, length = _NONE, 0, 0
        if count == size and count > 0:
            encoding = _DENSE
        elif count > 0:
            gather_bits(words[first:last], universe[first:last], pext, compact)
            encoding, length = _BITMAP, (size + 7) // 8
            if count < length:
                skips = _count_skips(compact, size)
                if count + skips < length:
                    encoding, length = _COORDINATE8, count + skips
            if 2 * count < length:
                encoding, length = _COORDINATE16, 2 * count
            if 2 * (size - count) < length:
                encoding, length = _COMPLEMENT16, 2 * (size - count)
            if encoding == _BITMAP:
                for byte in range(length):
                    out[used + byte] = np.uint8((compact[byte // 8] >> np.uint64(8 * (byte % 8))) & np.uint64(255))
            elif encoding == _COMPLEMENT16:
                _write_distances(compact, size, True, False, out[used : used + length])
            else:
                _write_distances(compact, size, False, encoding == _COORDINATE8, out[used : used + length])
        if encoding != _COORDINATE8:
            skips = 0
        table[block] = np.uint32(count | (skips << 16) | (encoding << 24))
        lengths[block] = length
        used += length
    return used


@njit()
def _count_skips(compact: NDArray[np.uint64], size: int) -> int:
    """Skip bytes that distances between the listed positions need."""
    skips, previous = 0, -1
    for index in range((size + 63) // 64):
        word = compact[index]
        while word:
            position = 64 * index + int(popcount((word & (~word + _ONE)) - _ONE))
            skips += (position - previous - 1) // _SKIP
            previous = position
            word &= word - _ONE
    return skips


@njit()
def _write_distances(
    compact: NDArray[np.uint64], size: int, complement: bool, in_bytes: bool, out: NDArray[np.uint8]
) -> None:
    """Distances between the listed positions; with `complement`, between those not listed."""
    at, previous = 0, -1
    for index in range((size + 63) // 64):
        word = ~compact[index] if complement else compact[index]
        if size - 64 * index < 64:
            word &= (_ONE << np.uint64(size - 64 * index)) - _ONE
        while word:
            position = 64 * index + int(popcount((word & (~word + _ONE)) - _ONE))
            distance = position - previous - 1
            if in_bytes:
                while distance >= _SKIP:
                    out[at] = _SKIP
                    at += 1
                    distance -= _SKIP
                out[at] = distance
                at += 1
            else:
                out[at] = distance & 255
                out[at + 1] = distance >> 8
                at += 2
            previous = position
            word &= word - _ONE


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
    count = len(tables)
    if not count:
        return universes.new_empty(0, universes.shape[-1])
    table, index = torch.cat(list(tables)), torch.cat(list(indices))
    entries = table.cpu().numpy().view(np.uint32).astype(np.int64)
    within = words_of(universes.cpu().expand(count, -1).flatten())
    edges = _edges(span, count)
    counts, skips, encoding = entries & 0xFFFF, (entries >> 16) & 0xFF, entries >> 24
    sizes = np.empty(len(entries), dtype=np.int64)
    _count_blocks(within, edges, sizes)
    _refuse(encoding > max(Encoding), span, "unknown encoding")
    _refuse(counts > sizes, span, "more values than positions")
    _refuse((encoding == _NONE) & (counts > 0), span, "values without an encoding")
    _refuse((encoding == _DENSE) & (counts != sizes), span, "a dense block that is not full")
    _refuse((encoding != _COORDINATE8) & (skips > 0), span, "skips in an encoding without skips")
    lengths = np.choose(
        encoding, [0 * counts, 0 * counts, (sizes + 7) // 8, counts + skips, 2 * counts, 2 * (sizes - counts)]
    )
    for announced, found in zip(lengths.reshape(count, -1).sum(axis=1).tolist(), map(len, indices), strict=True):
        if announced != found:
            raise DecodeError(f"the block table announces {announced} index bytes; there are {found}")
    begins = np.concatenate([[0], np.cumsum(lengths)])
    data, words = index.cpu().numpy(), np.empty(len(within), dtype=np.uint64)
    faults = np.zeros(len(entries), dtype=np.int64)

    def run(blocks: range) -> None:
        first, last = blocks.start, blocks.stop
        _decode(
            data,
            begins[first : last + 1],
            encoding[first:last],
            counts[first:last],
            sizes[first:last],
            within,
            edges[first : last + 1],
            PDEP,
            words,
            faults[first:last],
        )

    map_items(run, _groups(len(entries)))
    for fault in range(1, len(_FAULTS)):
        _refuse(faults == fault, span, _FAULTS[fault])
    return from_numpy(words.view(np.uint8)).view(count, -1).to(index.device)


@njit()
def _count_blocks(words: NDArray[np.uint64], edges: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    for block in range(counts.size):
        counts[block] = count_words(words[edges[block] : edges[block + 1]])


@njit()
def _decode(
    data: NDArray[np.uint8],
    begins: NDArray[np.int64],
    encodings: NDArray[np.int64],
    counts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    universe: NDArray[np.uint64],
    edges: NDArray[np.int64],
    pdep: NDArray[np.uint8],
    words: NDArray[np.uint64],
    faults: NDArray[np.int64],
) -> None:
    """Blocks one after the other; a fault's number (of `_FAULTS`) for each block, 0 where all is well."""
    compact = np.empty(_SCRATCH_WORDS + 1, dtype=np.uint64)
    for block in range(encodings.size):
        first, last = edges[block], edges[block + 1]
        encoding, size, count = encodings[block], sizes[block], counts[block]
        if encoding == _DENSE:
            words[first:last] = universe[first:last]
            continue
        if encoding == _NONE:
            words[first:last] = np.uint64(0)
            continue
        piece = data[begins[block] : begins[block + 1]]
        compact[:] = np.uint64(0)
        if encoding == _BITMAP:
            for byte in range(piece.size):
                compact[byte // 8] |= np.uint64(piece[byte]) << np.uint64(8 * (byte % 8))
            if size % 8 and piece[piece.size - 1] >> (size % 8):
                faults[block] = 1
        elif encoding == _COMPLEMENT16:
            faults[block] = _read_distances(piece, size, size - count, False, compact)
            for index in range((size + 63) // 64):
                compact[index] = ~compact[index]
            if size % 64:
                compact[size // 64] &= (_ONE << np.uint64(size % 64)) - _ONE
        else:
            faults[block] = _read_distances(piece, size, count, encoding == _COORDINATE8, compact)
        if faults[block] == 0 and int(count_words(compact)) != count:
            faults[block] = 2
        if faults[block] == 0:
            spread_bits(compact, universe[first:last], pdep, words[first:last])


@njit()
def _read_distances(
    piece: NDArray[np.uint8], size: int, count: int, in_bytes: bool, compact: NDArray[np.uint64]
) -> int:
    """Set the listed positions' bits; returns a fault's number or 0."""
    position, found, at = -1, 0, 0
    while at < piece.size:
        if in_bytes:
            distance = int(piece[at])
            at += 1
            if distance == _SKIP:
                position += _SKIP
                if at == piece.size:
                    return 3
                continue
        else:
            distance = int(piece[at]) | (int(piece[at + 1]) << 8)
            at += 2
        position += distance + 1
        if position >= size:
            return 4
        compact[position // 64] |= _ONE << np.uint64(position % 64)
        found += 1
    return 0 if found == count else 2


def _refuse(bad: NDArray[np.bool_], span: Span, what: str) -> None:
    if bad.any():
        raise DecodeError(f"block {span.first + int(bad.argmax()) % span.num_blocks}: {what}")
