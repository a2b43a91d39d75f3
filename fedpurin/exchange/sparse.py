"""One round of sparse exchange and aggregation, bucket by bucket: METHOD steps 4, 6 and 7.

Owns: which values are asked for, sent, summed, sent back and merged, in both modes, and the messages that carry
them. Does not own: masks and collaborators (given), the bytes of a message (`message.py`), the order of the sums
(`sums.py`), who starts a round (`exchange.py`).

With m_i the masks, C_i the collaborators, and every set taken bucket by bucket on packed words:

    R_j = m_j ∧ ⋁_{i≠j: j∈C_i} m_i      what is asked of j; with `fill: global` also m_j ∧ ¬⋀_i m_i
    P_i = m_i ∧ ⋁_{j∈C_i, j≠i} m_j      where others sent something that i uses
    U_i = ¬m_i ∧ ⋁_j m_j                the non-zeros of i's non-critical part under `fill: global`

`direct`: values at m_j go up (the mask went before them, in the same message); merged values at m_i come down.
`on_demand`: the request R_j goes down, values at R_j come up, sums at P_i go down, and the client adds its own value
and divides. With `normalise: contributors` the divisor differs by position, so where the server holds the client's
own value (R_i) it sends the finished value instead, and elsewhere the sum and its number of contributors. A
request for nothing is not sent, nor is a sum to a client that has no other collaborator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from fedpurin.exchange.bits import compress, count, expand_into
from fedpurin.exchange.blocks import Span, grid_of
from fedpurin.exchange.header import DecodeError, Kind, ValueType
from fedpurin.exchange.index import decode_index, encode_index
from fedpurin.exchange.ledger import Direction, Ledger, Phase
from fedpurin.exchange.message import Tally, from_wire, to_wire
from fedpurin.exchange.processes import Processes
from fedpurin.exchange.sums import BucketRows
from fedpurin.space import Layout, unpack_mask

Normalise = Literal["collaborators", "contributors"]
Fill = Literal["local", "global"]


@dataclass
class Channel:
    """One message on its way, both ends: what the sender wrote and what the receiver read."""

    kind: Kind
    client: int
    written: Tally = field(default_factory=Tally)
    read: Tally = field(default_factory=Tally)
    filed: Counter[str] = field(default_factory=Counter)
    """Bytes that are in the ledger already."""

    def send_index(self, mask: Tensor, universe: Tensor, span: Span) -> Tensor:
        """Encode a piece of the index and decode it at the other end."""
        encoded = encode_index(mask, universe, span)
        self.written.add_index(encoded)
        self.read.read_index(encoded.table, encoded.index)
        return decode_index(encoded.table, encoded.index, universe, span)

    def send_values(self, values: Tensor, value_type: ValueType) -> Tensor:
        """Encode a piece of the values and decode it at the other end, to float32."""
        return self.receive_values(self.write_values(values, value_type), value_type)

    def write_values(self, values: Tensor, value_type: ValueType) -> Tensor:
        piece = to_wire(values, value_type)
        self.written.add_values(piece)
        return piece

    def receive_values(self, piece: Tensor, value_type: ValueType) -> Tensor:
        self.read.add_values(piece)
        return from_wire(piece, value_type).to(torch.float32)


class SparseRound:
    """The state of one `combine`: call `run` for every bucket in order, then `close`."""

    def __init__(
        self,
        *,
        round: int,
        layout: Layout,
        processes: Processes,
        ledger: Ledger,
        value_type: ValueType,
        vectors: Mapping[int, Float32[Tensor, " any_length"]],
        masks: Mapping[int, UInt8[Tensor, " length/8"]],
        collaborators: Mapping[int, Sequence[int]],
        normalise: Normalise,
        weights: Mapping[int, float] | None,
        uploads: Mapping[int, Channel] | None,
    ) -> None:
        """`weights` are the shares s_j/Σs of `fill: global`, None otherwise; `uploads` the opened messages of `direct`."""
        self.round, self.layout, self.processes, self.ledger = round, layout, processes, ledger
        self.value_type, self.normalise, self.weights = value_type, normalise, weights
        self.vectors, self.masks = vectors, masks
        self.direct = uploads is not None
        self.everyone = sorted(masks)
        self.own = processes.owned(self.everyone)
        self.others = {i: tuple(j for j in collaborators[i] if j != i) for i in self.everyone}
        self.users: dict[int, list[int]] = {j: [] for j in self.everyone}
        for i, others in self.others.items():
            for j in others:
                self.users[j].append(i)
        self.needed = [self._needed_by(rank) for rank in range(processes.size)]
        self.requests = {j: Channel(Kind.REQUEST, j) for j in self.own}
        self.uploads = uploads or {j: Channel(Kind.VALUES, j) for j in self.everyone}
        self.results = {i: Channel(Kind.VALUES if self.direct else Kind.SUMS, i) for i in self.own}
        self.rests = {i: Channel(Kind.REST, i) for i in self.own}
        self.count_bytes = 1 if all(len(others) < 255 for others in self.others.values()) else 2

    def _needed_by(self, rank: int) -> list[int]:
        """Clients whose values a rank sums, or finishes for its own clients."""
        if self.weights is not None:
            return self.everyone
        own = [i for i in self.everyone if self.processes.owner(i) == rank]
        return sorted({j for i in own for j in (i, *self.others[i])})

    def run(self, span: Span) -> None:
        """Exchange one bucket and merge it into the vectors."""
        masks = {client: span.packed(mask) for client, mask in self.masks.items()}
        here = self.needed[self.processes.rank]
        anyone = self._anyone(masks)
        sent = {j: masks[j] if self.direct else self._wanted(j, masks) for j in here}
        if not self.direct:
            for j in self.own:
                sent[j] = self.requests[j].send_index(sent[j], masks[j], span)
        values = self._exchange_values(span, sent)
        rows = BucketRows(sent, values)
        for i in self.own:
            part = self.vectors[i][span.start : span.stop]
            if self.direct:
                self._merge_direct(i, part, masks[i], rows)
            else:
                self._merge_on_demand(i, part, masks, sent[i], rows, span)
            if self.weights is not None:
                self._fill(i, part, masks[i], anyone, rows, span)

    def close(self) -> None:
        """Write the headers, check every message against its header, and file the bytes."""
        headers: dict[int, bytes] = {}
        for j in self.own:
            if self.uploads[j].written.value_bytes or self.direct:
                headers[j] = self._close(self.uploads[j], self.value_type)
        arrived = {j: header for part in self.processes.gather_objects(headers) for j, header in part.items()}
        for j in self.needed[self.processes.rank]:
            if j in arrived:
                self.uploads[j].read.check(arrived[j])
        for i in self.own:
            if i in headers:
                self._file(i, "up", "values", self.uploads[i])
            if i in headers and not self.direct:
                self._finish(self.requests[i], ValueType.NONE, "request")
            if self.direct or self.others[i]:
                self._finish(self.results[i], self.value_type, "values" if self.direct else "sums")
            if self.weights is not None and self.rests[i].written.value_bytes:
                self._finish(self.rests[i], self.value_type, "sums")

    def _wanted(self, j: int, masks: Mapping[int, Tensor]) -> Tensor:
        """R_j."""
        wanted = _any_of(masks[j], (masks[i] for i in self.users[j]))
        if self.weights is not None:
            wanted |= ~reduce(torch.bitwise_and, (masks[i] for i in self.everyone))
        return wanted & masks[j]

    def _anyone(self, masks: Mapping[int, Tensor]) -> Tensor:
        """⋁_j m_j."""
        return reduce(torch.bitwise_or, masks.values())

    def _exchange_values(self, span: Span, sent: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Own clients send what they were asked for; every rank receives what it needs."""
        pieces = {
            j: self.uploads[j].write_values(compress(self.vectors[j][span.start : span.stop], sent[j]), self.value_type)
            for j in self.own
        }
        outgoing = [
            _join([pieces[j] for j in self.own if j in set(needed)], self.processes.device) for needed in self.needed
        ]
        incoming = self.processes.all_to_all(outgoing)
        values = {}
        for rank, piece in enumerate(incoming):
            clients = [j for j in self.needed[self.processes.rank] if self.processes.owner(j) == rank]
            lengths = [self.value_type.num_bytes * count(sent[j]) for j in clients]
            if sum(lengths) != piece.numel():
                raise DecodeError(f"rank {rank} sent {piece.numel()} value bytes; {sum(lengths)} were asked for")
            for j, part in zip(clients, piece.split(lengths), strict=True):
                values[j] = self.uploads[j].receive_values(part, self.value_type)
        return values

    def _merge_direct(self, i: int, part: Tensor, mask: Tensor, rows: BucketRows) -> None:
        total = rows.sums(self.others[i], mask) + rows.row(i, mask)
        if self.normalise == "collaborators":
            merged = total / (len(self.others[i]) + 1)
        else:
            merged = total / (rows.counts(self.others[i], mask) + 1)
        expand_into(part, mask, self.results[i].send_values(merged, self.value_type))

    def _merge_on_demand(
        self, i: int, part: Tensor, masks: Mapping[int, Tensor], asked: Tensor, rows: BucketRows, span: Span
    ) -> None:
        mask, others, channel = masks[i], self.others[i], self.results[i]
        at = _any_of(mask, (masks[j] for j in others)) & mask
        sums = rows.sums(others, at)
        finished = unpack_mask(asked)[unpack_mask(at)]
        counts = None
        if self.normalise == "contributors":
            counts = rows.counts(others, at) + 1
            sums = torch.where(finished, (sums + rows.row(i, at)) / counts, sums)
            counts = counts[~finished].to(torch.uint8 if self.count_bytes == 1 else torch.int16)
        if others:
            if not self._as_requested(i):
                at = channel.send_index(at, mask, span)
            sums = channel.send_values(sums, self.value_type)
            if counts is not None and counts.numel():
                channel.written.add_counts(counts.view(torch.uint8))
                channel.read.add_counts(counts.view(torch.uint8))
        # The client's side.
        total = torch.zeros_like(part)
        expand_into(total, at, sums)
        own = compress(part, mask)
        merged = compress(total, mask) + own
        if self.normalise == "collaborators":
            merged = merged / (len(others) + 1)
        else:
            assert counts is not None
            divisor = torch.ones_like(part)
            unfinished = at & ~asked
            expand_into(divisor, unfinished, counts.to(torch.float32))
            done = unpack_mask(at & asked)[unpack_mask(mask)]
            merged = torch.where(done, compress(total, mask), merged / compress(divisor, mask))
        expand_into(part, mask, merged)

    def _as_requested(self, i: int) -> bool:
        """Whether P_i = R_i follows from who uses whom, so that the sums need no index."""
        return self.weights is None and tuple(self.users[i]) == self.others[i]

    def _fill(self, i: int, part: Tensor, mask: Tensor, anyone: Tensor, rows: BucketRows, span: Span) -> None:
        assert self.weights is not None
        outside = span.packed(grid_of(self.layout).parameters.to(mask.device)) & ~mask
        at = self.rests[i].send_index(anyone & outside, outside, span)
        values = self.rests[i].send_values(rows.weighted(self.weights, at), self.value_type)
        part[unpack_mask(outside)] = 0.0
        expand_into(part, at, values)

    def _finish(self, channel: Channel, value_type: ValueType, phase: Phase) -> None:
        channel.read.check(self._close(channel, value_type))
        self._file(channel.client, "down", phase, channel)

    def _close(self, channel: Channel, value_type: ValueType) -> bytes:
        members = len(self.others[channel.client]) + 1 if channel.kind is Kind.SUMS else 0
        return channel.written.close(
            channel.kind,
            value_type,
            channel.client,
            self.round,
            self.layout.size,
            members=members,
            count_bytes=self.count_bytes,
        )

    def _file(self, client: int, direction: Direction, phase: Phase, channel: Channel) -> None:
        self.ledger.record(self.round, client, direction, phase, channel.written.encoding_bytes - channel.filed)


def _any_of(like: Tensor, masks: Iterable[Tensor]) -> Tensor:
    return reduce(torch.bitwise_or, masks, torch.zeros_like(like))


def _join(pieces: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.cat(list(pieces)) if pieces else torch.empty(0, dtype=torch.uint8, device=device)
