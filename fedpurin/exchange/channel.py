"""One message on its way, and the setting of a round in which messages travel.

Owns: both ends of a message that is written and read bucket by bucket, its header at the end, its entry in the
ledger. Does not own: which messages there are (`masks.py`, `sparse.py`, `dense.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float32, Shaped, UInt8
from torch import Tensor

from fedpurin.exchange.ledger import Direction, Ledger, Phase
from fedpurin.exchange.processes import Processes
from fedpurin.exchange.wire.blocks import BlockGrid, Span, grid_of
from fedpurin.exchange.wire.header import DecodeError, Kind, ValueType
from fedpurin.exchange.wire.index import decode_indices, encode_indices
from fedpurin.exchange.wire.message import COUNT_DTYPES, SectionTotals, view_values, write_values
from fedpurin.space import Layout


@dataclass
class Channel:
    """One message, at the end that is on this rank.

    Where its sender is simulated on this rank (the server is, for own clients), it is counted as it is written; what
    reads it here reads the same memory, so there is nothing to compare. Elsewhere it is counted as it arrives.
    """

    kind: Kind
    client: int
    totals: SectionTotals = field(default_factory=SectionTotals)
    filed: Counter[str] = field(default_factory=Counter)
    """Bytes that are in the ledger already, by encoding."""

    def send_values(self, values: Float32[Tensor, " values"], value_type: ValueType) -> Float32[Tensor, " values"]:
        """Encode a piece of the values and decode it at the other end, on this rank."""
        return view_values(write_values(self.totals, values, value_type), value_type).to(torch.float32)

    def send_counts(self, counts: Shaped[Tensor, " counts"], num_bytes: int) -> None:
        """Encode a piece of the contributor counts; they are small numbers and arrive as they are."""
        self.totals.add_counts(counts.to(COUNT_DTYPES[num_bytes]).view(torch.uint8))


def send_indices(
    channels: Sequence[Channel],
    masks: UInt8[Tensor, "messages bytes"],
    universes: UInt8[Tensor, "messages bytes"],
    span: Span,
) -> UInt8[Tensor, "messages bytes"]:
    """Encode a piece of each message's index and decode it at the other end, on this rank."""
    if not channels:
        return masks
    encoded = encode_indices(masks, universes, span)
    for channel, index in zip(channels, encoded, strict=True):
        channel.totals.add_index(index)
    return decode_indices([e.table for e in encoded], [e.index for e in encoded], universes, span)


@dataclass(frozen=True)
class Setting:
    """A round: who takes part, on which ranks, and how values travel."""

    round: int
    layout: Layout
    processes: Processes
    ledger: Ledger
    value_type: ValueType
    bucket_bytes: int
    participants: Sequence[int]
    """All ranks' participants, ascending."""

    @property
    def grid(self) -> BlockGrid:
        return grid_of(self.layout)

    @property
    def own(self) -> list[int]:
        """This rank's participants."""
        return self.processes.owned(self.participants)

    def parameters(self) -> UInt8[Tensor, " packed"]:
        """The packed mask of all parameters, on this rank's device."""
        return self.grid.parameters(self.processes.device)

    def buckets(self, num_rows: int | None = None) -> list[Span]:
        """The layout in spans of which `num_rows` vectors (default: all participants') fill at most one bucket.

        A bucket is never smaller than one block.
        """
        rows = max(len(self.participants), 1) if num_rows is None else num_rows
        return list(self.grid.buckets(self.bucket_bytes // (torch.float32.itemsize * rows)))

    def close(self, channel: Channel, value_type: ValueType, *, members: int = 0, count_bytes: int = 1) -> bytes:
        """The header that completes a message."""
        return channel.totals.close(
            channel.kind,
            value_type,
            channel.client,
            self.round,
            self.layout.size,
            members=members,
            count_bytes=count_bytes,
        )

    def check(self, channel: Channel, header: bytes) -> None:
        """Compare what was read of a message with its header, and with the message that was waited for.

        Raises:
            DecodeError: another length or checksum; another kind, client, round or type of values.
        """
        found = channel.totals.check(header)
        value_type = self.value_type if found.num_values else found.value_type
        for name, is_, expected in (
            ("kind", found.kind, channel.kind),
            ("client", found.client, channel.client),
            ("round", found.round, self.round),
            ("size", found.size, self.layout.size),
            ("value type", found.value_type, value_type),
        ):
            if is_ != expected:
                raise DecodeError(f"a message of {name} {is_!r} where {expected!r} was waited for")

    def file(self, channel: Channel, direction: Direction, phase: Phase, value_type: ValueType) -> None:
        """Enter into the ledger those bytes of a message that it does not hold yet."""
        by_encoding = channel.totals.bytes_by_encoding(value_type)
        new = by_encoding - channel.filed if channel.filed else by_encoding
        self.ledger.record(self.round, channel.client, direction, phase, new)
        channel.filed = by_encoding

    def deliver(self, headers: Mapping[int, bytes], channels: Mapping[int, Channel]) -> set[int]:
        """Bring own clients' headers to every rank, and check the messages that came from others.

        Returns the clients whose message arrived. A collective.
        """
        arrived: set[int] = set()
        for rank, part in enumerate(self.processes.gather_objects(dict(headers))):
            arrived |= part.keys()
            for client in part.keys() & channels.keys() if rank != self.processes.rank else ():
                self.check(channels[client], part[client])
        return arrived
