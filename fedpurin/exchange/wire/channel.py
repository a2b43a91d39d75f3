"""One message as it is written or read, section by section and piece by piece: lengths, checksum, values.

Owns: what a message's header is made of and compared with, and values in the wire's types. Does not own: the index
(`index.py`), the header's bytes (`header.py`), whole messages (`message.py`), when which is sent (`exchange/`).

A long message is written in pieces, bucket by bucket: the pieces of one section follow each other in order, but between
two of them come pieces of other sections. So each section has a hash of its own, and the checksum is XXH3 over the
header and over the XXH3 of each section. It guards against damage, not against an adversary.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from enum import IntEnum

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor
from xxhash import xxh3_64

from fedpurin.exchange.wire.costs import HEADER_BYTES
from fedpurin.exchange.wire.header import CHECKSUM_BYTES, DecodeError, Header, Kind, ValueType
from fedpurin.exchange.wire.index import EncodedIndex

COUNT_DTYPES = {1: torch.uint8, 2: torch.int16}


class Section(IntEnum):
    """The parts of a message behind its header, in order."""

    TABLE = 0
    VALUES = 1
    INDEX = 2
    COUNTS = 3


class Channel:
    """One message, at one of its ends.

    Where its sender is simulated on this rank (the server is, for own clients), it is hashed as it is written; what
    reads it here reads the same memory, so there is nothing to compare. Elsewhere it is hashed as it arrives.
    """

    def __init__(self, kind: Kind, client: int, round_number: int, *, members: int = 0, count_bytes: int = 1) -> None:
        self.kind, self.client, self.round = kind, client, round_number
        self.members, self.count_bytes = members, count_bytes
        self.value_type = ValueType.NONE
        self.lengths: dict[Section, int] = defaultdict(int)
        """Bytes of each section so far."""
        self.filed: Counter[str] = Counter()
        """Bytes that are in the ledger already, by encoding."""
        self._index_encodings: Counter[str] = Counter()
        self._hashes: dict[Section, xxh3_64] = defaultdict(xxh3_64)

    def add(self, section: Section, piece: UInt8[Tensor, " bytes"]) -> None:
        """Continue a section by its next piece, which is copied to the CPU where it is elsewhere."""
        if piece.numel():
            self._hashes[section].update(piece.cpu().numpy().data)
            self.lengths[section] += piece.numel()

    def add_index(self, encoded: EncodedIndex) -> None:
        """Continue the block table and the index section; `by_encoding` counts what this end wrote."""
        self.add(Section.TABLE, encoded.table)
        self.add(Section.INDEX, encoded.index)
        self._index_encodings.update(encoded.by_encoding)

    def write_values(self, values: Shaped[Tensor, " values"], value_type: ValueType) -> UInt8[Tensor, " bytes"]:
        """The next values as they travel.

        Raises:
            ValueError: a value that is not finite, or that `value_type` cannot hold.
        """
        piece = narrow(values, value_type).view(torch.uint8)
        self.value_type = value_type
        self.add(Section.VALUES, piece)
        return piece

    def read_values(self, piece: UInt8[Tensor, " bytes"], value_type: ValueType) -> Shaped[Tensor, " values"]:
        """The inverse of `write_values`, still of the wire's type.

        Raises:
            DecodeError: a value that is not finite.
        """
        values = view_values(piece, value_type)
        if not fits(values, values.dtype):
            raise DecodeError("a value is not finite")
        self.value_type = value_type
        self.add(Section.VALUES, piece)
        return values

    def send_values(self, values: Shaped[Tensor, " values"], value_type: ValueType) -> Shaped[Tensor, " values"]:
        """Write the next values and read them at the other end, on this rank, as float32."""
        return view_values(self.write_values(values, value_type), value_type).to(torch.float32)

    def send_counts(self, counts: Shaped[Tensor, " counts"]) -> None:
        """Write the next contributor counts; they are small numbers and arrive as they are."""
        self.add(Section.COUNTS, counts.to(COUNT_DTYPES[self.count_bytes]).view(torch.uint8))

    @property
    def by_encoding(self) -> Counter[str]:
        """What all bytes of the message are, its header included."""
        counted = self._index_encodings.copy()
        counted["header"] = HEADER_BYTES
        if self.lengths[Section.VALUES]:
            counted[self.value_type.name.lower()] = self.lengths[Section.VALUES]
        if self.lengths[Section.COUNTS]:
            counted["counts"] = self.lengths[Section.COUNTS]
        return counted

    def checksum(self, opening: bytes) -> int:
        """The checksum of the message that `opening`, a header without its checksum, opens."""
        digests = (self._hashes[section].digest() for section in Section)
        return int(xxh3_64(opening + b"".join(digests)).intdigest())

    def header(self, size: int) -> bytes:
        """The header that completes the message; `size` is the layout's number of parameters."""
        opening = Header(
            kind=self.kind,
            value_type=self.value_type,
            client=self.client,
            round=self.round,
            size=size,
            has_table=self.lengths[Section.TABLE] > 0,
            index_bytes=self.lengths[Section.INDEX],
            num_values=self.lengths[Section.VALUES] // max(self.value_type.num_bytes, 1),
            members=self.members,
            count_bytes=self.count_bytes if self.lengths[Section.COUNTS] else 0,
            num_counts=self.lengths[Section.COUNTS] // self.count_bytes,
        ).opening()
        return opening + self.checksum(opening).to_bytes(CHECKSUM_BYTES, "little")

    def header_tensor(self, size: int, device: torch.device) -> UInt8[Tensor, " header"]:
        """`header` where it is sent with the sections."""
        return torch.frombuffer(bytearray(self.header(size)), dtype=torch.uint8).to(device)

    def check(self, data: bytes, size: int) -> None:
        """Compare what was read, and what was waited for, with the header that arrived.

        Raises:
            DecodeError: another kind, client, round, size or type of values; a section of another length; another checksum.
        """
        header, claimed = Header.unpack(data)
        for name, expected, announced in (
            ("kind", self.kind, header.kind),
            ("client", self.client, header.client),
            ("round", self.round, header.round),
            ("parameters", size, header.size),
            ("value type", self.value_type, header.value_type),
            ("block table", self.lengths[Section.TABLE] > 0, header.has_table),
            ("index bytes", self.lengths[Section.INDEX], header.index_bytes),
            ("value bytes", self.lengths[Section.VALUES], header.num_values * header.value_type.num_bytes),
            ("count bytes", self.lengths[Section.COUNTS], header.num_counts * header.count_bytes),
        ):
            if expected != announced:
                raise DecodeError(f"{header.kind.name}: {name} {expected!r}; the header announces {announced!r}")
        found = self.checksum(data[: HEADER_BYTES - CHECKSUM_BYTES])
        if found != claimed:
            raise DecodeError(f"{header.kind.name}: checksum {found:#018x}; the header says {claimed:#018x}")


def narrow(values: Shaped[Tensor, " values"], value_type: ValueType) -> Shaped[Tensor, " values"]:
    """Values in the wire's type, contiguous; raises what `Channel.write_values` raises."""
    wire = values.to(value_type.dtype)
    if wire.stride() != (1,):  # also of no value or one, which torch calls contiguous whatever its stride
        wire = wire.clone(memory_format=torch.contiguous_format)
    # Beyond its largest number float8_e4m3fn has no infinity: torch's versions differ in making it NaN or that number.
    rounded = values if wire.itemsize == 1 else wire
    if not fits(rounded, wire.dtype):
        name, largest = value_type.name.lower(), torch.finfo(wire.dtype).max
        held = rounded.to(torch.float32).abs() <= largest
        raise ValueError(
            f"exchange.value_dtype={name}: a value of {values.to(torch.float32)[~held][0].item()} cannot be sent; "
            f"it is not finite there (largest: {largest:g})"
        )
    return wire


def view_values(piece: UInt8[Tensor, " bytes"], value_type: ValueType) -> Shaped[Tensor, " values"]:
    """Bytes as values of the wire's type; a view where their memory is aligned."""
    aligned = piece if piece.storage_offset() % value_type.num_bytes == 0 else piece.clone()
    return aligned.view(value_type.dtype)


def fits(values: Shaped[Tensor, " values"], dtype: torch.dtype) -> bool:
    """Whether every value is a number that `dtype` holds; of codes (`codes.py`) any byte."""
    if not dtype.is_floating_point or not values.numel():
        return True
    wide = values.to(torch.float32) if values.itemsize == 1 else values  # torch compares no 8-bit numbers
    low, high = torch.aminmax(wide)  # NaN if any is
    return -torch.finfo(dtype).max <= low.item() and high.item() <= torch.finfo(dtype).max
