"""Whole messages: `encode` and `decode`, and the totals that both accumulate over a message's sections.

Owns: the order of the sections, their lengths and checksum. Does not own: the index (`index.py`), the header's
bytes (`header.py`), when which message is sent (`exchange.py`, which writes long messages bucket by bucket: the
pieces of each section, joined, are byte for byte what `encode` returns).

The *universe* of a message is the set of positions that it may speak of, known to both sides: all parameters; for
`REQUEST` and `SUMS` the client's critical ones; for `REST` all others. A message without an index (`VALUES`, and
`SUMS` where they answer a request in full) has values at positions that both sides know.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from fedpurin.exchange.wire.blocks import EncodedIndex, grid_of
from fedpurin.exchange.wire.checksum import Checksum, Section
from fedpurin.exchange.wire.codes import Code
from fedpurin.exchange.wire.costs import BLOCK_ENTRY_BYTES, HEADER_BYTES, Encoding
from fedpurin.exchange.wire.header import CHECKSUM_BYTES, DecodeError, Header, Kind, ValueType
from fedpurin.exchange.wire.index import decode_index, encode_index
from fedpurin.space import Layout

WITHOUT_VALUES = (Kind.MASK, Kind.REQUEST)
_ENCODINGS = tuple(encoding.name.lower() for encoding in Encoding)
COUNT_DTYPES = {1: torch.uint8, 2: torch.int16}


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


@dataclass
class SectionTotals:
    """Lengths, checksum and bytes by encoding of a message, accumulated piece by piece."""

    index_bytes: int = 0
    table_bytes: int = 0
    value_bytes: int = 0
    count_bytes: int = 0
    checksum: Checksum = field(default_factory=Checksum)
    encoding_bytes: Counter[str] = field(default_factory=Counter)

    def add_index(self, encoded: EncodedIndex) -> None:
        """Count a piece of the block table and of the index section that this side wrote."""
        self.read_index(encoded.table, encoded.index)
        for encoding, num_bytes in zip(_ENCODINGS, encoded.encoding_bytes, strict=True):
            if num_bytes:
                self.encoding_bytes[encoding] += num_bytes

    def read_index(self, table: Tensor, index: Tensor) -> None:
        """Count a piece of the block table and of the index section that arrived."""
        self.checksum.add(Section.TABLE, table)
        self.checksum.add(Section.INDEX, index)
        self.table_bytes += table.numel()
        self.index_bytes += index.numel()

    def add_values(self, values: Shaped[Tensor, " values"]) -> None:
        """Count a piece of the value section, of the wire's type."""
        self.checksum.add(Section.VALUES, values.view(torch.uint8))
        self.value_bytes += values.nbytes

    def add_counts(self, piece: UInt8[Tensor, " bytes"]) -> None:
        """Count a piece of the contributor counts."""
        self.checksum.add(Section.COUNTS, piece)
        self.count_bytes += piece.numel()

    def total_bytes(self) -> int:
        return HEADER_BYTES + self.table_bytes + self.index_bytes + self.value_bytes + self.count_bytes

    def close(
        self,
        kind: Kind,
        value_type: ValueType,
        client: int,
        round_number: int,
        size: int,
        *,
        members: int = 0,
        count_bytes: int = 1,
    ) -> bytes:
        """The header of the message that was accumulated."""
        header = Header(
            kind=kind,
            value_type=value_type,
            client=client,
            round=round_number,
            size=size,
            has_table=self.table_bytes > 0,
            index_bytes=self.index_bytes,
            num_values=self.value_bytes // value_type.num_bytes if value_type.num_bytes else 0,
            members=members,
            count_bytes=count_bytes if self.count_bytes else 0,
            num_counts=self.count_bytes // count_bytes,
        )
        return header.pack(self.checksum)

    def bytes_by_encoding(self, value_type: ValueType) -> Counter[str]:
        """What all bytes of the message are, its header included."""
        counted = self.encoding_bytes.copy()
        counted["header"] = HEADER_BYTES
        if self.value_bytes:
            counted[value_type.name.lower()] = self.value_bytes
        if self.count_bytes:
            counted["counts"] = self.count_bytes
        return counted

    def check(self, data: bytes) -> Header:
        """Compare what was read with what the header announces.

        Raises:
            DecodeError: a section of another length, or another checksum.
        """
        header, claimed = Header.unpack(data)
        for name, read, announced in (
            ("index bytes", self.index_bytes, header.index_bytes),
            ("value bytes", self.value_bytes, header.num_values * header.value_type.num_bytes),
            ("count bytes", self.count_bytes, header.num_counts * header.count_bytes),
            ("block table", self.table_bytes > 0, header.has_table),
        ):
            if read != announced:
                raise DecodeError(f"{header.kind.name}: {name} {read}; the header announces {announced}")
        found = self.checksum.of(data[: HEADER_BYTES - CHECKSUM_BYTES])
        if found != claimed:
            raise DecodeError(f"{header.kind.name}: checksum {found:#018x}; the header says {claimed:#018x}")
        return header


def write_values(totals: SectionTotals, values: Tensor, value_type: ValueType) -> UInt8[Tensor, " bytes"]:
    """Values as they travel, counted.

    Raises:
        ValueError: a value that is not finite, or that `value_type` cannot hold.
    """
    wire = narrow(values, value_type)
    totals.add_values(wire)
    return wire.view(torch.uint8)


def narrow(values: Tensor, value_type: ValueType) -> Shaped[Tensor, " values"]:
    """Values in the wire's type, contiguous; raises what `write_values` raises."""
    wire = values.to(value_type.dtype)
    if wire.stride() != (1,):  # also of no value or one, which torch calls contiguous whatever its stride
        wire = wire.clone(memory_format=torch.contiguous_format)
    # Beyond its largest number float8_e4m3fn has no infinity: torch's versions differ in making it NaN or that number.
    fits = wire.itemsize > 1 or not wire.is_floating_point() or _within(values, torch.finfo(wire.dtype).max)
    if not (fits and all_finite(wire)):
        name, largest = value_type.name.lower(), torch.finfo(wire.dtype).max
        wide = values.to(torch.float32)
        bad = wide[~(wide.abs() <= largest) | ~torch.isfinite(wire.to(torch.float32))][0].item()
        raise ValueError(
            f"exchange.value_dtype={name}: a value of {bad} cannot be sent; it is not finite there (largest: {largest:g})"
        )
    return wire


def read_values(
    totals: SectionTotals, piece: UInt8[Tensor, " bytes"], value_type: ValueType
) -> Shaped[Tensor, " values"]:
    """The inverse of `write_values`, still of the wire's type.

    Raises:
        DecodeError: a value that is not finite.
    """
    values = view_values(piece, value_type)
    if not all_finite(values):
        raise DecodeError("a value is not finite")
    totals.add_values(values)
    return values


def view_values(piece: UInt8[Tensor, " bytes"], value_type: ValueType) -> Shaped[Tensor, " values"]:
    """Bytes as values of the wire's type; a view where their memory is aligned."""
    aligned = piece if piece.storage_offset() % value_type.num_bytes == 0 else piece.clone()
    return aligned.view(value_type.dtype)


def all_finite(values: Shaped[Tensor, " values"]) -> bool:
    """Whether no value is infinite or not a number; codes (`codes.py`) are neither."""
    if not values.is_floating_point() or not values.numel():
        return True
    wide = values.to(torch.float16) if values.itemsize == 1 else values  # torch compares no 8-bit numbers
    low, high = torch.aminmax(wide)  # NaN if any is
    return math.isfinite(low.item()) and math.isfinite(high.item())


def _within(values: Tensor, largest: float) -> bool:
    """Whether every value is at most `largest` in magnitude; NaN is not."""
    if not values.numel():
        return True
    low, high = torch.aminmax(values.to(torch.float32))
    return -largest <= low.item() and high.item() <= largest


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
    """The bytes of a message, and how many of them are what (`SectionTotals.encoding_bytes`)."""
    totals, table, index = SectionTotals(), None, None
    if message.mask is not None:
        grid = grid_of(layout)
        positions = grid.parameters(message.mask.device) if universe is None else universe
        encoded = encode_index(message.mask, positions, grid.whole)
        totals.add_index(encoded)
        table, index = encoded.table, encoded.index
    value_type, values = ValueType.NONE, None
    if message.values is not None:
        value_type = _value_type_of(message.values)
        values = write_values(totals, message.values, value_type)
        if table is not None and value_type is not ValueType.CODES and num_selected(table) != message.values.numel():
            raise ValueError(f"{message.values.numel()} values for a mask of {num_selected(table)} positions")
    counts, count_bytes = None, 1
    if message.counts is not None and message.counts.numel():
        counts, count_bytes = message.counts.view(torch.uint8), message.counts.itemsize
        totals.add_counts(counts)
    header = totals.close(
        message.kind,
        value_type,
        message.client,
        message.round,
        layout.size,
        members=message.members,
        count_bytes=count_bytes,
    )
    sections = [section for section in (table, values, index, counts) if section is not None]
    device = sections[0].device if sections else torch.device("cpu")
    opening = torch.frombuffer(bytearray(header), dtype=torch.uint8).to(device)
    return torch.cat([opening, *sections]), totals.bytes_by_encoding(value_type)


def _value_type_of(values: Tensor) -> ValueType:
    if values.dtype is torch.uint8:
        return ValueType.CODES
    return ValueType[str(values.dtype).removeprefix("torch.").upper()]


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
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8) if isinstance(data, bytes) and data else data
    if not isinstance(buffer, Tensor):
        raise DecodeError(f"0 bytes are too few for a header of {HEADER_BYTES}")
    opening = bytes(buffer[:HEADER_BYTES].tolist())
    header, _ = Header.unpack(opening)
    grid = grid_of(layout)
    if header.size != layout.size:
        raise DecodeError(f"speaks of {header.size} parameters; this layout has {layout.size}")
    if (header.value_type is ValueType.NONE) != (header.kind in WITHOUT_VALUES):
        raise DecodeError(f"{header.kind.name} with values of type {header.value_type.name}")
    if header.value_type is ValueType.CODES and (code is None or not header.has_table):
        raise DecodeError(
            f"{header.kind.name} with coded values, {'without positions' if code else 'and no code is known'}"
        )
    expected = header.message_bytes(grid.num_blocks)
    if buffer.numel() != expected:
        raise DecodeError(f"{buffer.numel()} bytes; its header announces {expected}")
    table, piece, index, counts = buffer[HEADER_BYTES:].split_with_sizes(
        [
            BLOCK_ENTRY_BYTES * grid.num_blocks if header.has_table else 0,
            header.num_values * header.value_type.num_bytes,
            header.index_bytes,
            header.num_counts * header.count_bytes,
        ]
    )
    totals = SectionTotals()
    totals.read_index(table, index)
    values = read_values(totals, piece, header.value_type) if header.value_type is not ValueType.NONE else None
    totals.add_counts(counts)
    totals.check(opening)
    mask = None
    if header.has_table:
        positions = grid.parameters(buffer.device) if universe is None else universe
        mask = decode_index(table, index, positions, grid.whole)
        if header.value_type is ValueType.CODES:
            assert values is not None
            assert code is not None, "refused above"
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
