"""The 40 bytes that open every message, and the one error that a bad message raises.

Owns: the header's fields and their bytes, the block table's entries, `DecodeError`.
Does not own: what the sections hold (`index.py`, `message.py`), their sizes in advance (`costs.py`).

    offset  bytes  field
         0      2  magic "FP"
         2      1  version
         3      1  kind of message
         4      1  value type
         5      1  bytes of a contributor count (0, 1 or 2), bit 7 set when a block table follows
         6      2  members: the number of collaborators |C_i| (sums), else 0
         8      4  client that sends or receives
        12      4  round
        16      4  parameters of the layout
        20      4  bytes of the index section
        24      4  values in the value section
        28      4  contributor counts after the values
        32      8  checksum over the 32 bytes above and the hash of every section (`channel.py`)

All numbers are little-endian. A message without a block table speaks of positions that both sides know.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import torch

from fedpurin.exchange.wire.costs import BLOCK_ENTRY_BYTES, HEADER_BYTES

MAGIC = b"FP"
VERSION = 2
CHECKSUM_BYTES = 8
_OPENING = struct.Struct("<2sBBBBHIIIIII")
_HAS_TABLE = 0x80
assert _OPENING.size + CHECKSUM_BYTES == HEADER_BYTES


class DecodeError(ValueError):
    """The bytes are not a message that `encode` wrote; the text names what is wrong."""


class Kind(IntEnum):
    """What a message carries. Positions are those of its universe (see `message.py`)."""

    MASK = 1
    """Up: a client's critical-parameter mask; no values."""
    REQUEST = 2
    """Down: which of its own critical values a client must send; no values."""
    VALUES = 3
    """Either way: values at positions that both sides know; no index."""
    UPDATE = 4
    """Up: mask and values in one message (`exchange: direct`)."""
    SUMS = 5
    """Down: what a client needs for its critical parameters, by position in its own mask."""
    REST = 6
    """Down: non-critical values of `fill: global`, by position outside its own mask."""
    DENSE = 7
    """Either way: every parameter."""


class ValueType(IntEnum):
    """The type of values on the wire."""

    NONE = 0
    FLOAT32 = 1
    FLOAT16 = 2
    BFLOAT16 = 3
    CODES = 4
    """Bytes of a `Code` (`codes.py`); the header counts bytes."""
    FLOAT8_E4M3FN = 5
    """Three bits of fraction, up to 448 (2^-9 is the least above zero)."""
    FLOAT8_E5M2 = 6
    """Two bits of fraction, up to 57344 (2^-16)."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self is ValueType.CODES else getattr(torch, self.name.lower())

    @property
    def num_bytes(self) -> int:
        return 0 if self is ValueType.NONE else self.dtype.itemsize

    @classmethod
    def named(cls, name: str) -> ValueType:
        """The value type of `exchange.value_dtype`."""
        return cls[name.upper()]


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a message's header."""

    kind: Kind
    value_type: ValueType
    client: int
    round: int
    size: int
    has_table: bool
    index_bytes: int
    num_values: int
    members: int = 0
    count_bytes: int = 0
    num_counts: int = 0

    def section_bytes(self, num_blocks: int) -> tuple[int, int, int, int]:
        """Bytes of the table, the values, the index and the counts, for a layout of `num_blocks` blocks."""
        table = BLOCK_ENTRY_BYTES * num_blocks if self.has_table else 0
        values = self.value_type.num_bytes * self.num_values
        return table, values, self.index_bytes, self.count_bytes * self.num_counts

    def opening(self) -> bytes:
        """The header's bytes before the checksum.

        Raises:
            ValueError: a number that its field cannot hold.
        """
        flags = self.count_bytes | (_HAS_TABLE if self.has_table else 0)
        lengths = (self.index_bytes, self.num_values, self.num_counts)
        fields = (self.kind, self.value_type, flags, self.members, self.client, self.round, self.size, *lengths)
        try:
            return _OPENING.pack(MAGIC, VERSION, *fields)
        except struct.error as error:
            raise ValueError(f"a message cannot say {self}: {error}") from None

    @classmethod
    def unpack(cls, data: bytes) -> tuple[Header, int]:
        """The header and the checksum it claims.

        Raises:
            DecodeError: too short, another format or version, an unknown kind or value type, lengths that contradict.
        """
        if len(data) < HEADER_BYTES:
            raise DecodeError(f"{len(data)} bytes are too few for a header of {HEADER_BYTES}")
        magic, version, kind, value_type, flags, members, client, round_, size, *lengths = _OPENING.unpack_from(data)
        if magic != MAGIC:
            raise DecodeError(f"starts with {magic!r}, not with {MAGIC!r}")
        if version != VERSION:
            raise DecodeError(f"format version {version}; this is version {VERSION}")
        if kind not in iter(Kind):
            raise DecodeError(f"unknown kind of message {kind}")
        if value_type not in iter(ValueType):
            raise DecodeError(f"unknown value type {value_type}")
        index_bytes, num_values, num_counts = lengths
        count_bytes, has_table = flags & ~_HAS_TABLE, bool(flags & _HAS_TABLE)
        if count_bytes > 2 or (num_counts > 0) != (count_bytes > 0):
            raise DecodeError(f"{num_counts} contributor counts of {count_bytes} bytes")
        if not has_table and index_bytes:
            raise DecodeError(f"{index_bytes} index bytes without a block table")
        if value_type == ValueType.NONE and num_values:
            raise DecodeError(f"{num_values} values of no type")
        known = Kind(kind), ValueType(value_type)
        header = cls(*known, client, round_, size, has_table, index_bytes, num_values, members, count_bytes, num_counts)
        return header, int.from_bytes(data[_OPENING.size : HEADER_BYTES], "little")
