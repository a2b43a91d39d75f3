"""Whole messages: `encode` and `decode`.

Owns: the order of the sections, and what must hold between them. Does not own: the sections (`channel.py`, `index.py`),
the header's bytes (`header.py`), when which message is sent (`exchange/`, which writes long messages bucket by
bucket: the pieces of each section, joined, are byte for byte what `encode` returns).

The *universe* of a message is the set of positions that it may speak of, known to both sides: all parameters; for
`REQUEST` and `SUMS` the client's critical ones; for `REST` all others. A message without an index (`VALUES`, and
`SUMS` where they answer a request in full) has values at positions that both sides know.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from fedpurin.exchange.wire.blocks import grid_of
from fedpurin.exchange.wire.channel import COUNT_DTYPES, Channel, Section
from fedpurin.exchange.wire.codes import Code
from fedpurin.exchange.wire.costs import HEADER_BYTES
from fedpurin.exchange.wire.header import DecodeError, Header, Kind, ValueType
from fedpurin.exchange.wire.index import decode_index, encode_index
from fedpurin.space import Layout

WITHOUT_VALUES = (Kind.MASK, Kind.REQUEST)


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `mask` is None where both sides know the positions; `values` ascend by position.

    Values that a `Code` wrote are its bytes (uint8) here; `decode` returns them as float32.
    """

    kind: Kind
    client: int
    round: int
    mask: UInt8[Tensor, " packed"] | None
    values: Shaped[Tensor, " values"] | None = None
    members: int = 0
    counts: Shaped[Tensor, " counts"] | None = None


def encode(
    message: Message, layout: Layout, universe: UInt8[Tensor, " packed"] | None = None
) -> UInt8[Tensor, " bytes"]:
    """The bytes of a message, on its tensors' device. `universe` defaults to all parameters.

    Raises:
        ValueError: a value that is not finite, or as many of them as the mask does not have.
    """
    return encode_counted(message, layout, universe)[0]


def encode_counted(
    message: Message, layout: Layout, universe: UInt8[Tensor, " packed"] | None = None
) -> tuple[UInt8[Tensor, " bytes"], Counter[str]]:
    """The bytes of a message, and how many of them are what (`Channel.by_encoding`)."""
    mask, values, counts = message.mask, message.values, message.counts
    count_bytes = 1 if counts is None else counts.itemsize
    channel = Channel(message.kind, message.client, message.round, members=message.members, count_bytes=count_bytes)
    sections: dict[Section, Tensor] = {}
    if mask is not None:
        grid = grid_of(layout)
        encoded = encode_index(mask, grid.parameters(mask.device) if universe is None else universe, grid.whole)
        channel.add_index(encoded)
        sections = {Section.TABLE: encoded.table, Section.INDEX: encoded.index}
    if values is not None:
        coded = values.dtype is torch.uint8
        value_type = ValueType.CODES if coded else ValueType.named(str(values.dtype).removeprefix("torch."))
        sections[Section.VALUES] = channel.write_values(values, value_type)
        if mask is not None and not coded and num_selected(sections[Section.TABLE]) != values.numel():
            positions = num_selected(sections[Section.TABLE])
            raise ValueError(f"{values.numel()} values for a mask of {positions} positions")
    if counts is not None:
        channel.send_counts(counts)
        sections[Section.COUNTS] = counts.view(torch.uint8)
    pieces = [sections[section] for section in sorted(sections)]
    device = pieces[0].device if pieces else torch.device("cpu")
    return torch.cat([channel.header_tensor(layout.size, device), *pieces]), channel.by_encoding


def decode(
    data: bytes | UInt8[Tensor, " bytes"],
    layout: Layout,
    universe: UInt8[Tensor, " packed"] | None = None,
    code: Code | None = None,
) -> Message:
    """The inverse of `encode`, on the device of `data` (CPU for `bytes`); `code` is what coded values were written with.

    Allocates nothing before the lengths match.

    Raises:
        DecodeError: anything that `encode` did not write for this layout and universe; it names what is wrong.
    """
    buffer = data if isinstance(data, Tensor) else torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
    opening = bytes(buffer[:HEADER_BYTES].tolist())
    header, _ = Header.unpack(opening)
    grid, value_type = grid_of(layout), header.value_type
    if header.size != layout.size:
        raise DecodeError(f"speaks of {header.size} parameters; this layout has {layout.size}")
    if (value_type is ValueType.NONE) != (header.kind in WITHOUT_VALUES):
        raise DecodeError(f"{header.kind.name} with values of type {value_type.name}")
    if value_type is ValueType.CODES and (code is None or not header.has_table):
        raise DecodeError(
            f"{header.kind.name} with coded values, {'without positions' if code else 'and no code is known'}"
        )
    lengths = header.section_bytes(grid.num_blocks)
    if buffer.numel() != HEADER_BYTES + sum(lengths):
        raise DecodeError(f"{buffer.numel()} bytes; its header announces {HEADER_BYTES + sum(lengths)}")
    table, piece, index, counts = buffer[HEADER_BYTES:].split_with_sizes(lengths)
    channel = Channel(header.kind, header.client, header.round)
    values = None if value_type is ValueType.NONE else channel.read_values(piece, value_type)
    for section, rest in ((Section.TABLE, table), (Section.INDEX, index), (Section.COUNTS, counts)):
        channel.add(section, rest)
    channel.check(opening, layout.size)
    mask = None
    if header.has_table:
        positions = grid.parameters(buffer.device) if universe is None else universe
        mask = decode_index(table, index, positions, grid.whole)
        if values is not None and code is not None and value_type is ValueType.CODES:
            values = code.decode(values, num_selected(table))
        elif values is not None and num_selected(table) != header.num_values:
            raise DecodeError(f"{header.num_values} values for a mask of {num_selected(table)} positions")
    return Message(
        kind=header.kind,
        client=header.client,
        round=header.round,
        mask=mask,
        values=values,
        members=header.members,
        counts=counts.clone().view(COUNT_DTYPES[header.count_bytes]) if header.num_counts else None,
    )


def num_selected(table: UInt8[Tensor, " table_bytes"]) -> int:
    """Positions that a block table announces."""
    return int((table.view(torch.int32) & 0xFFFF).sum().item())
