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

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Literal

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from fedpurin.exchange.channel import Channel, Setting, send_indices
from fedpurin.exchange.groups import Groups
from fedpurin.exchange.ledger import Phase
from fedpurin.exchange.sums import BucketRows, merge_own, unions
from fedpurin.exchange.wire.bits import compress, count, expand_into
from fedpurin.exchange.wire.blocks import Span
from fedpurin.exchange.wire.header import DecodeError, Kind, ValueType
from fedpurin.exchange.wire.message import read_values, view_values, write_values
from fedpurin.parallel import map_items
from fedpurin.space import unpack_mask

Normalise = Literal["collaborators", "contributors"]
Fill = Literal["local", "global"]


class SparseRound:
    """The state of one `combine`: call `run` for every bucket in order, then `close`."""

    def __init__(
        self,
        setting: Setting,
        vectors: Mapping[int, Float32[Tensor, " any_length"]],
        masks: Mapping[int, UInt8[Tensor, " packed"]],
        collaborators: Mapping[int, Sequence[int]],
        *,
        normalise: Normalise,
        weights: Mapping[int, float] | None,
        uploads: Mapping[int, Channel] | None,
    ) -> None:
        """`weights` asks for `fill: global`; `uploads` are the messages that masks opened, of `direct`."""
        self.setting, self.processes, self.value_type = setting, setting.processes, setting.value_type
        self.normalise, self.weights = normalise, weights
        self.vectors, self.masks = vectors, masks
        self.direct = uploads is not None
        self.everyone = list(setting.participants)
        self.own = setting.own
        self.others = {i: tuple(j for j in collaborators[i] if j != i) for i in self.everyone}
        self.users: dict[int, list[int]] = {j: [] for j in self.everyone}
        for i in self.everyone:
            for j in self.others[i]:
                self.users[j].append(i)
        self.needed = [self._needed_by(rank) for rank in range(self.processes.size)]
        self.here = self.needed[self.processes.rank]
        self.requests = {j: Channel(Kind.REQUEST, j) for j in self.own}
        self.uploads = uploads or {j: Channel(Kind.VALUES, j) for j in self.here}
        self.results = {i: Channel(Kind.VALUES if self.direct else Kind.SUMS, i) for i in self.own}
        self.rests = {i: Channel(Kind.REST, i) for i in self.own}
        self.count_bytes = 1 if all(len(others) < 255 for others in self.others.values()) else 2

        # Buffers that every bucket uses again: memory that is new each time costs more than what is done with it.
        width = max((span.stop - span.start for span in setting.buckets()), default=0)
        device = self.processes.device
        self.arriving = torch.empty(len(self.here) * width, dtype=torch.float32, device=device)
        self.leaving = torch.empty(len(self.own) * width, dtype=torch.float32, device=device)

        row = {client: number for number, client in enumerate(self.everyone)}
        row_here = {client: number for number, client in enumerate(self.here)}
        self.user_rows = Groups.of([row[i] for i in self.users[j]] for j in self.here)
        self.other_rows = Groups.of([row[j] for j in self.others[i]] for i in self.own)
        self.summands = Groups.of([row_here[j] for j in self.others[i]] for i in self.own)
        self.rows_of_here = [row[j] for j in self.here]
        self.rows_of_own = [row[i] for i in self.own]
        self.own_here = [row_here[i] for i in self.own]

    def _needed_by(self, rank: int) -> list[int]:
        """Clients whose values a rank sums: its own (whose results it finishes) and their collaborators."""
        if self.weights is not None:
            return self.everyone
        own = [i for i in self.everyone if self.processes.owner(i) == rank]
        return sorted({j for i in own for j in (i, *self.others[i])})

    def run(self, span: Span) -> None:
        """Exchange one bucket and merge it into the vectors."""
        masks = torch.stack([span.packed(self.masks[client]) for client in self.everyone])
        sent = masks[self.rows_of_here] if self.direct else self._request(masks, span)
        rows = BucketRows(sent, self._exchange_values(span, sent))
        own_masks = masks[self.rows_of_own]
        if self.direct:
            self._return_merged(span, own_masks, rows)
        else:
            self._return_sums(span, own_masks, unions(masks, self.other_rows, self.rows_of_own), rows)
        if self.weights is not None:
            self._return_rest(span, masks, rows)

    def close(self) -> None:
        """Write the headers, check every message against its header, and file the bytes."""
        headers: dict[int, bytes] = {}
        for j in self.own:
            if self.uploads[j].totals.value_bytes or self.direct:
                headers[j] = self._close(self.uploads[j], self.value_type)
        self.setting.deliver(headers, {j: self.uploads[j] for j in self.here})
        for i in self.own:
            if i in headers:
                self.setting.file(self.uploads[i], "up", "values", self.value_type)
            if i in headers and not self.direct:
                self._finish(self.requests[i], ValueType.NONE, "request")
            if self.direct or self.others[i]:
                self._finish(self.results[i], self.value_type, "values" if self.direct else "sums")
            if self.weights is not None and self.rests[i].totals.value_bytes:
                self._finish(self.rests[i], self.value_type, "sums")

    def _request(self, masks: Tensor, span: Span) -> Tensor:
        """R_j of every client that is needed here; own clients learn theirs from a message."""
        wanted = unions(masks, self.user_rows, self.rows_of_here)
        if self.weights is not None:
            wanted |= masks[self.rows_of_here] & ~reduce(torch.bitwise_and, masks)
        requests = [self.requests[j] for j in self.own]
        wanted[self.own_here] = send_indices(requests, wanted[self.own_here], masks[self.rows_of_own], span)
        return wanted

    def _exchange_values(self, span: Span, sent: Tensor) -> Tensor:
        """Own clients send what they were asked for; every rank receives what it needs, one row after the other."""
        here, rank, width = self.here, self.processes.rank, self.value_type.num_bytes
        sizes = dict(zip(here, map(count, sent), strict=True))
        values = self.arriving[: sum(sizes.values())]
        places = dict(zip(here, values.split_with_sizes(list(sizes.values())), strict=True))

        def write(k: int) -> Tensor:
            j = self.own[k]
            selected = compress(self.vectors[j][span.start : span.stop], sent[self.own_here[k]], out=places[j])
            return write_values(self.uploads[j].totals, selected, self.value_type)

        pieces = dict(zip(self.own, map_items(write, range(len(self.own))), strict=True))
        outgoing = [
            _join([] if other == rank else [pieces[j] for j in self.own if j in needed], sent.device)
            for other, needed in enumerate(map(set, self.needed))
        ]
        for other, piece in enumerate(self.processes.all_to_all(outgoing)):
            clients = [j for j in here if self.processes.owner(j) == other and other != rank]
            lengths = [width * sizes[j] for j in clients]
            if sum(lengths) != piece.numel():
                raise DecodeError(f"rank {other} sent {piece.numel()} value bytes; {sum(lengths)} were asked for")
            pieces.update(zip(clients, piece.split_with_sizes(lengths), strict=True))

        def read(j: int) -> None:
            if self.processes.owner(j) == rank:
                received = view_values(pieces[j], self.value_type).to(torch.float32)
            else:
                received = read_values(self.uploads[j].totals, pieces[j], self.value_type).to(torch.float32)
            if received.data_ptr() != places[j].data_ptr():  # own float32 values are in their place already
                places[j].copy_(received)

        map_items(read, here)
        return values

    def _return_merged(self, span: Span, masks: Tensor, rows: BucketRows) -> None:
        """`direct`: the server finishes every value."""
        merged, _ = rows.sums(self.summands, self.own_here, masks, masks, self._divisors(), self.leaving)

        def give(k: int) -> None:
            i = self.own[k]
            received = self.results[i].send_values(merged[k], self.value_type)
            expand_into(self.vectors[i][span.start : span.stop], masks[k], received)

        map_items(give, range(len(self.own)))

    def _return_sums(self, span: Span, masks: Tensor, at: Tensor, rows: BucketRows) -> None:
        """`on_demand`: the server sends sums, and values that it can finish where the divisor is not known."""
        divisors = self._divisors()
        finished = torch.zeros_like(at) if divisors else at & rows.sent[self.own_here]
        sums, counts = rows.sums(self.summands, self.own_here, at, finished, divisors, self.leaving)
        listed = [k for k, i in enumerate(self.own) if self.others[i] and not self._as_requested(i)]
        at[listed] = send_indices([self.results[self.own[k]] for k in listed], at[listed], masks[listed], span)

        def give(k: int) -> None:
            i, channel = self.own[k], self.results[self.own[k]]
            places, values = at[k], sums[k]
            if self.others[i]:
                values = channel.send_values(values, self.value_type)
                channel.send_counts(counts[k], self.count_bytes)
            part = self.vectors[i][span.start : span.stop]
            merge_own(part, masks[k], places, finished[k], values, divisors[k] if divisors else None, counts[k])

        map_items(give, range(len(self.own)))

    def _return_rest(self, span: Span, masks: Tensor, rows: BucketRows) -> None:
        """`fill: global`: the non-zeros of each client's non-critical part."""
        assert self.weights is not None
        total_weight = sum(self.weights[j] for j in self.everyone)
        total = rows.weighted([self.weights[j] / total_weight for j in self.here])
        anyone = reduce(torch.bitwise_or, masks)
        outside = span.packed(self.setting.parameters()) & ~masks[self.rows_of_own]
        at = send_indices([self.rests[i] for i in self.own], anyone & outside, outside, span)

        def give(k: int) -> None:
            i = self.own[k]
            values = self.rests[i].send_values(compress(total, at[k]), self.value_type)
            part = self.vectors[i][span.start : span.stop]
            part.masked_fill_(unpack_mask(outside[k]), 0.0)
            expand_into(part, at[k], values)

        map_items(give, range(len(self.own)))

    def _divisors(self) -> list[int] | None:
        """|C_i| of own clients, or None where the divisor differs by position."""
        return [len(self.others[i]) + 1 for i in self.own] if self.normalise == "collaborators" else None

    def _as_requested(self, i: int) -> bool:
        """Whether P_i = R_i follows from who uses whom, so that the sums need no index."""
        return self.weights is None and tuple(self.users[i]) == self.others[i]

    def _finish(self, channel: Channel, value_type: ValueType, phase: Phase) -> None:
        """Complete and file a message of the server."""
        self._close(channel, value_type)
        self.setting.file(channel, "down", phase, value_type)

    def _close(self, channel: Channel, value_type: ValueType) -> bytes:
        members = len(self.others[channel.client]) + 1 if channel.kind is Kind.SUMS else 0
        return self.setting.close(channel, value_type, members=members, count_bytes=self.count_bytes)


def _join(pieces: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.cat(list(pieces)) if pieces else torch.empty(0, dtype=torch.uint8, device=device)
