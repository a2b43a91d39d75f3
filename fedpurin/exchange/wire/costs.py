"""What the codec's messages cost: the format's constants and the size that each encoding guarantees.

The codec (`message.py`) writes what this module says, the `budget` program (`selection/`) plans with it, and a
test holds the two together. All sizes are bytes.

A message is
    header          HEADER_BYTES
    block table     BLOCK_ENTRY_BYTES a block: the block's encoding and how many of its values are sent
    value section   the values, in ascending position (before the index, so that they are aligned)
    index section   which positions of each block, as its encoding writes them

A tensor is cut into blocks of BLOCK_SIZE parameters (its last one shorter), and each block takes the smallest
encoding, so a message is never larger than `EncodingCost.size` promises for any one encoding of the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from fedpurin.space import Layout

HEADER_BYTES = 40
BLOCK_SIZE = 16_384
BLOCK_ENTRY_BYTES = 4
COMPLEMENT_BYTES = 2  # of a distance to a position that is not sent
VALUE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}


class Encoding(IntEnum):
    """How a block says which of its n positions are sent. k of them are."""

    NONE = 0
    """Nothing is sent."""
    DENSE = 1
    """Every position is sent (k = n); no index bytes."""
    BITMAP = 2
    """One bit a position: ⌈n/8⌉ index bytes."""
    COORDINATE8 = 3
    """Distance from the previous sent position in a byte; 255 skips 255 positions: at most k + ⌊n/255⌋."""
    COORDINATE16 = 4
    """The same distance in two bytes, which always suffice inside a block: 2k."""
    COMPLEMENT16 = 5
    """Two-byte distances between the positions *not* sent: 2(n − k)."""


@dataclass(frozen=True, slots=True)
class EncodingCost:
    """Bytes of one tensor under one encoding: at most `fixed + per_value · k` when k of its values are sent."""

    encoding: Encoding
    fixed: int
    per_value: int

    def size(self, count: int) -> int:
        """Guaranteed bytes for `count` values, block table included."""
        return self.fixed + self.per_value * count


def num_blocks(size: int) -> int:
    """Blocks of a tensor of `size` parameters."""
    return -(-size // BLOCK_SIZE)


def encoding_costs(size: int, value_bytes: int) -> tuple[EncodingCost, ...]:
    """The choices for a tensor of `size` parameters with values of `value_bytes`, `NONE` first.

    With values of one byte, naming a position that is *not* sent takes more than sending it. So `COMPLEMENT16`, whose
    price a value would be negative, is left out; and `DENSE` is charged for the worst that almost all positions take,
    half a bitmap more than all of them.
    """
    is_byte = value_bytes < COMPLEMENT_BYTES
    whole, rest = divmod(size, BLOCK_SIZE)
    table = BLOCK_ENTRY_BYTES * num_blocks(size)
    skips = whole * (BLOCK_SIZE // 255) + rest // 255
    half_bitmaps = whole * (BLOCK_SIZE // 16) + -(-rest // 8) // 2
    costs = (
        EncodingCost(Encoding.NONE, table, 0),
        EncodingCost(Encoding.DENSE, table + value_bytes * size + (half_bitmaps if is_byte else 0), 0),
        EncodingCost(Encoding.BITMAP, table + -(-size // 8), value_bytes),
        EncodingCost(Encoding.COORDINATE8, table + skips, value_bytes + 1),
        EncodingCost(Encoding.COORDINATE16, table, value_bytes + 2),
        EncodingCost(Encoding.COMPLEMENT16, table + COMPLEMENT_BYTES * size, value_bytes - COMPLEMENT_BYTES),
    )
    return costs[:-1] if is_byte else costs


def dense_bytes(layout: Layout, value_bytes: int) -> int:
    """One message that carries every parameter of the layout: what dense exchange sends."""
    return HEADER_BYTES + sum(
        BLOCK_ENTRY_BYTES * num_blocks(segment.size) + value_bytes * segment.size for segment in layout
    )


def upload_overhead_bytes(mode: str) -> int:
    """Header bytes of one client's upload: one message, or a mask message and a value message."""
    return HEADER_BYTES * (2 if mode == "on_demand" else 1)
