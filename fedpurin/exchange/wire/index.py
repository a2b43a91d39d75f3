"""Which positions of a block are sent, in the fewest bytes: the block table and the index section.

Owns: the choice between the CPU kernels and the torch operations. The format, for each block of n positions, of
which k are sent (`costs.Encoding` says which bytes each encoding writes):

    block table entry   count k (2 bytes), skips (1 byte), encoding (1 byte)
    index section       the bytes of that encoding, blocks back to back

*Position* is a number within the block's universe: all its parameters, or, for messages that speak about a
client's critical parameters to that client, only those. A distance is the number of positions passed over since
the previous one listed; a distance of 255 and more is written in a byte encoding as skips (byte 255: pass over
255 positions, list none) and a rest. A block takes the encoding with the fewest index bytes, of equals the first.
"""

from __future__ import annotations

from jaxtyping import UInt8
from torch import Tensor

from fedpurin.exchange.wire import index_cpu, index_torch
from fedpurin.exchange.wire.blocks import EncodedIndex, Span


def encode_index(mask: UInt8[Tensor, " bytes"], universe: UInt8[Tensor, " bytes"], span: Span) -> EncodedIndex:
    """Write which positions of `universe` are in `mask`, a subset of it; both packed, both of `span` alone."""
    if mask.device.type == "cpu":
        return index_cpu.encode_index(mask, universe, span)
    return index_torch.encode_index(mask, universe, span)


def decode_index(
    table: UInt8[Tensor, " 4*blocks"],
    index: UInt8[Tensor, " index_bytes"],
    universe: UInt8[Tensor, " bytes"],
    span: Span,
) -> UInt8[Tensor, " bytes"]:
    """The packed mask that `encode_index` wrote. A block in an encoding that is not its shortest is understood too.

    Raises:
        DecodeError: bytes that say nothing, or contradict each other, with the number of the offending block.
    """
    if index.device.type == "cpu":
        return index_cpu.decode_index(table, index, universe, span)
    return index_torch.decode_index(table, index, universe, span)
