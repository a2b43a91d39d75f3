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
from torch import Tensor

from fedpurin.exchange.ledger import Phase
from fedpurin.exchange.setting import Masks, Setting, Uploads, Vectors, send_indices
from fedpurin.exchange.sums import Groups, add_up, unite, weigh
from fedpurin.exchange.wire.bits import compress, expand_into
from fedpurin.exchange.wire.blocks import Span
from fedpurin.exchange.wire.channel import Channel, Section
from fedpurin.exchange.wire.header import Kind
from fedpurin.parallel import map_items
from fedpurin.space import unpack_mask

Normalise = Literal["collaborators", "contributors"]
Fill = Literal["local", "global"]


class SparseRound:
    """The state of one `combine`: call `run` for every bucket in order, then `close`.

    Clients are named by id (i, j) and, where tensors have a row a client, by the row: `masks` of every participant,
    `sent` and `rows` of those `here` whose values this rank sums, the rest of its `own` clients.
    """

    def __init__(
        self,
        setting: Setting,
        vectors: Vectors,
        masks: Masks,
        collaborators: Mapping[int, Sequence[int]],
        *,
        normalise: Normalise,
        weights: Mapping[int, float] | None,
        opened: Mapping[int, Channel] | None,
    ) -> None:
        """`weights` asks for `fill: global`; `opened` are the messages that masks opened, of `direct`."""
        self.setting, self.vectors, self.masks, self.weights = setting, vectors, masks, weights
        self.counting, self.direct = normalise == "contributors", opened is not None
        self.everyone, self.own = list(setting.participants), setting.own
        self.others = {i: tuple(j for j in collaborators[i] if j != i) for i in self.everyone}
        self.users: dict[int, list[int]] = {j: [] for j in self.everyone}
        for i in self.everyone:
            for j in self.others[i]:
                self.users[j].append(i)

        needed = [self._needed_by(rank) for rank in range(setting.processes.size)]
        self.here = needed[setting.processes.rank]
        self.requests = self._channels(Kind.REQUEST)
        self.sent = opened or {j: Channel(Kind.VALUES, j, setting.round) for j in self.here}
        self.answers = self._channels(Kind.VALUES if self.direct else Kind.SUMS)
        self.rests = self._channels(Kind.REST) if weights is not None else []
        self.uploads = Uploads(setting, self.sent, needed)
        self.memory = setting.memory(len(self.own))

        row = {client: number for number, client in enumerate(self.everyone)}
        row_here = {client: number for number, client in enumerate(self.here)}
        self.user_rows = Groups([row[i] for i in self.users[j]] for j in self.here)
        self.other_rows = Groups([row[j] for j in self.others[i]] for i in self.own)
        self.summands = Groups([row_here[j] for j in self.others[i]] for i in self.own)
        self.rows_of_here = [row[j] for j in self.here]
        self.rows_of_own = [row[i] for i in self.own]
        self.own_here = [row_here[i] for i in self.own]

    def _needed_by(self, rank: int) -> list[int]:
        """Clients whose values a rank sums: its own (whose results it finishes) and their collaborators."""
        if self.weights is not None:
            return self.everyone
        own = [i for i in self.everyone if self.setting.processes.owner(i) == rank]
        return sorted({j for i in own for j in (i, *self.others[i])})

    def _channels(self, kind: Kind) -> list[Channel]:
        """An answer of the server for each own client."""
        count_bytes = 1 if all(len(others) < 255 for others in self.others.values()) else 2
        members = [len(self.others[i]) + 1 if kind is Kind.SUMS else 0 for i in self.own]
        return [
            Channel(kind, i, self.setting.round, members=number, count_bytes=count_bytes)
            for i, number in zip(self.own, members, strict=True)
        ]

    def run(self, span: Span) -> None:
        """Exchange one bucket and merge it into the vectors."""
        masks = torch.stack([span.packed(self.masks[client]) for client in self.everyone])
        sent = masks[self.rows_of_here] if self.direct else self._request(masks, span)
        rows = self.uploads.gather(span, self.vectors, sent)
        sums = add_up(rows, self.summands, span.rows(self.memory, len(self.own)))
        divisors = self._divisors(sent)
        if self.direct:
            self._return_merged(span, masks[self.rows_of_own], rows, sums, divisors)
        else:
            self._return_sums(span, masks, sent, rows, sums, divisors)
        if self.weights is not None:
            self._return_rest(span, masks, rows)

    def close(self) -> None:
        """Complete the server's messages, and file the bytes of all."""
        headed = [j for j in self.own if self.direct or self.sent[j].lengths[Section.VALUES]]
        for k, i in enumerate(self.own):
            if i in headed:
                self.setting.file_upload(self.sent[i], "values")
            if i in headed and not self.direct:
                self.setting.file_answer(self.requests[k], "request", [i])
            if self.direct or self.others[i]:
                phase: Phase = "values" if self.direct else "sums"
                self.setting.file_answer(self.answers[k], phase, [i])
        for channel in self.rests:
            if channel.lengths[Section.VALUES]:
                self.setting.file_answer(channel, "sums", [channel.client])

    def _request(self, masks: Tensor, span: Span) -> Tensor:
        """R_j of every client that is needed here; own clients learn theirs from a message."""
        wanted = unite(masks, self.user_rows, self.rows_of_here)
        if self.weights is not None:
            wanted |= masks[self.rows_of_here] & ~reduce(torch.bitwise_and, masks)
        wanted[self.own_here] = send_indices(self.requests, wanted[self.own_here], masks[self.rows_of_own], span)
        return wanted

    def _divisors(self, sent: Tensor) -> Tensor:
        """|C_i| of each own client, or how many sent a value at each position, itself included."""
        if not self.counting:
            return torch.tensor([[len(self.others[i]) + 1.0] for i in self.own], device=sent.device)
        bits = unpack_mask(sent.reshape(-1)).view(torch.uint8).view(len(sent), 8 * sent.shape[1])
        numbers = torch.empty(len(self.own), bits.shape[1], dtype=torch.int16, device=sent.device)
        return add_up(bits, self.summands, numbers).add_(1)

    def _return_merged(self, span: Span, masks: Tensor, rows: Tensor, sums: Tensor, divisors: Tensor) -> None:
        """`direct`: the server finishes every value."""

        def give(k: int) -> None:
            merged = sums[k].add_(rows[self.own_here[k]]).div_(divisors[k])
            values = self.answers[k].send_values(compress(merged, masks[k]), self.setting.value_type)
            expand_into(span.of(self.vectors[self.own[k]]), masks[k], values)

        map_items(give, range(len(self.own)))

    def _return_sums(
        self, span: Span, masks: Tensor, sent: Tensor, rows: Tensor, sums: Tensor, divisors: Tensor
    ) -> None:
        """`on_demand`: the server sends sums, and values that it can finish where the divisor is not known."""
        at, critical = unite(masks, self.other_rows, self.rows_of_own), masks[self.rows_of_own]
        done = at & sent[self.own_here] if self.counting else torch.zeros_like(at)
        listed = [k for k, i in enumerate(self.own) if self.others[i] and not self._as_requested(i)]
        at[listed] = send_indices([self.answers[k] for k in listed], at[listed], critical[listed], span)

        def give(k: int) -> None:
            if self.counting:
                finished = (sums[k] + rows[self.own_here[k]]).div_(divisors[k])
                expand_into(sums[k], done[k], compress(finished, done[k]))
                self.answers[k].send_counts(compress(divisors[k], at[k] & ~done[k]))
            values = self.answers[k].send_values(compress(sums[k], at[k]), self.setting.value_type)
            merge(span.of(self.vectors[self.own[k]]), k, values)

        def merge(part: Tensor, k: int, values: Tensor) -> None:
            """The client's side. Where nobody else sent anything, the sum is zero and the number of contributors one."""
            merged = sums[k].zero_()
            expand_into(merged, at[k], values)
            finished = compress(merged, done[k]) if self.counting else None
            merged.add_(part).div_(divisors[k])
            if finished is not None:
                expand_into(merged, done[k], finished)
            expand_into(part, critical[k], compress(merged, critical[k]))

        map_items(give, range(len(self.own)))

    def _return_rest(self, span: Span, masks: Tensor, rows: Tensor) -> None:
        """`fill: global`: the non-zeros of each client's non-critical part."""
        assert self.weights is not None
        total_weight = sum(self.weights[j] for j in self.everyone)
        total = weigh(rows, [self.weights[j] / total_weight for j in self.here])
        outside = span.packed(self.setting.parameters()) & ~masks[self.rows_of_own]
        at = send_indices(self.rests, reduce(torch.bitwise_or, masks) & outside, outside, span)

        def give(k: int) -> None:
            values = self.rests[k].send_values(compress(total, at[k]), self.setting.value_type)
            part = span.of(self.vectors[self.own[k]])
            part.masked_fill_(unpack_mask(outside[k]), 0.0)
            expand_into(part, at[k], values)

        map_items(give, range(len(self.own)))

    def _as_requested(self, i: int) -> bool:
        """Whether P_i = R_i follows from who uses whom, so that the sums need no index."""
        return self.weights is None and tuple(self.users[i]) == self.others[i]
