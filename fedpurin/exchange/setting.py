"""The setting of a round in which messages travel, and what every kind of exchange does with them.

Owns: buckets, values on their way from the clients to the ranks that sum them, headers behind them, entries in the ledger.
Does not own: which messages there are (`masks.py`, `sparse.py`, `dense.py`, `whole.py`), one message (`wire/channel.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from fedpurin.exchange.ledger import Ledger, Phase
from fedpurin.exchange.processes import Processes
from fedpurin.exchange.wire.bits import compress, count, expand_into
from fedpurin.exchange.wire.blocks import BlockGrid, Span, grid_of
from fedpurin.exchange.wire.channel import Channel, view_values
from fedpurin.exchange.wire.costs import HEADER_BYTES
from fedpurin.exchange.wire.header import DecodeError, ValueType
from fedpurin.exchange.wire.index import decode_indices, encode_indices
from fedpurin.parallel import map_items
from fedpurin.space import Layout

Vectors = Mapping[int, Float32[Tensor, " any_length"]]
Masks = Mapping[int, UInt8[Tensor, " packed"]]


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

    def memory(self, num_rows: int) -> Float32[Tensor, " _"]:
        """Memory that every bucket uses again (`Span.rows`): what is new each time costs more than what is done with it."""
        widest = max((span.stop - span.start for span in self.buckets()), default=0)
        return torch.empty(num_rows * widest, dtype=torch.float32, device=self.processes.device)

    def batches(self, message_bytes: int) -> Iterator[Sequence[int]]:
        """The participants, as many at a time as have messages that fill at most one bucket."""
        at_a_time = max(1, self.bucket_bytes // max(message_bytes, 1))
        for first in range(0, len(self.participants), at_a_time):
            yield self.participants[first : first + at_a_time]

    def gather(
        self, clients: Sequence[int], pieces: Mapping[int, UInt8[Tensor, " _"]]
    ) -> dict[int, UInt8[Tensor, " _"]]:
        """The bytes of each of `clients` on every rank, of which own clients' are `pieces`. A collective."""
        own = [pieces[client] for client in self.processes.owned(clients)]
        lengths = torch.tensor([piece.numel() for piece in own], dtype=torch.int64, device=self.processes.device)
        arrived: dict[int, Tensor] = {}
        for rank, part in enumerate(self.processes.all_gather(self.join([lengths.view(torch.uint8), *own]))):
            there = [client for client in clients if self.processes.owner(client) == rank]
            announced, rest = part.tensor_split([lengths.itemsize * len(there)])
            arrived |= zip(there, rest.split_with_sizes(announced.clone().view(torch.int64).tolist()), strict=True)
        return {client: arrived[client] for client in clients}

    def join(self, pieces: Iterable[UInt8[Tensor, " _"]]) -> UInt8[Tensor, " all"]:
        """Pieces one after the other, on this rank's device also where there are none."""
        return torch.cat([torch.empty(0, dtype=torch.uint8, device=self.processes.device), *pieces])

    def deliver(self, channels: Mapping[int, Channel], sent: Sequence[int]) -> None:
        """Bring the headers of the messages that own clients `sent` to every rank, and check the others'. A collective.

        For messages that end without values: those with values bring theirs along.
        """
        headers = {client: channels[client].header(self.layout.size) for client in sent}
        for part in self.processes.gather_objects(headers):
            for client in part.keys() & channels.keys():
                if not self.processes.owns(client):
                    channels[client].check(part[client], self.layout.size)

    def file_upload(self, channel: Channel, phase: Phase) -> None:
        """Enter into the ledger those bytes of a client's message that it does not hold yet."""
        by_encoding = channel.by_encoding
        new = by_encoding - channel.filed if channel.filed else by_encoding
        self.ledger.record(self.round, channel.client, "up", phase, new)
        channel.filed = by_encoding

    def file_answer(self, channel: Channel, phase: Phase, receivers: Sequence[int]) -> None:
        """Complete a message of the server, and enter it into the ledger for each of its receivers on this rank."""
        for client in receivers:
            channel.client = client
            channel.header(self.layout.size)  # which refuses what it cannot say
            self.ledger.record(self.round, client, "down", phase, channel.by_encoding)


class Uploads:
    """Clients' values on their way to the ranks that sum them, bucket by bucket; a message for each client."""

    def __init__(self, setting: Setting, channels: Mapping[int, Channel], needed: Sequence[Sequence[int]]) -> None:
        """`needed[r]` are the clients whose values rank r sums, ascending, its own among them."""
        self.setting, self.channels, self.needed = setting, channels, needed
        self.here = needed[setting.processes.rank]
        self._memory = setting.memory(len(self.here))

    def gather(
        self, span: Span, vectors: Vectors, sent: UInt8[Tensor, "here bytes"]
    ) -> Float32[Tensor, "here positions"]:
        """What arrives of the values at the positions `sent[k]` of client `here[k]`; zeros elsewhere.

        The last bucket completes the messages: to other ranks it also brings their headers, which are checked there.
        """
        setting, here, rank = self.setting, self.here, self.setting.processes.rank
        value_type, own = setting.value_type, setting.own
        end = HEADER_BYTES if span.last == setting.grid.num_blocks else 0
        masks = dict(zip(here, sent, strict=True))
        rows = span.rows(self._memory, len(here))
        places = dict(zip(here, rows.zero_(), strict=True))

        def write(client: int) -> list[Tensor]:
            """The values, and the header that follows the last of them."""
            channel = self.channels[client]
            values = channel.write_values(compress(span.of(vectors[client]), masks[client]), value_type)
            return [values, channel.header_tensor(setting.layout.size, values.device)] if end else [values]

        written = dict(zip(own, map_items(write, own), strict=True))
        outgoing = [
            setting.join(piece for j in own if other != rank and j in needed for piece in written[j])
            for other, needed in enumerate(map(set, self.needed))
        ]
        pieces = {client: values for client, (values, *_) in written.items()}
        for other, part in enumerate(setting.processes.all_to_all(outgoing)):
            clients = [j for j in here if setting.processes.owner(j) == other != rank]
            lengths = [value_type.num_bytes * count(masks[j]) + end for j in clients]
            if sum(lengths) != part.numel():
                raise DecodeError(f"rank {other} sent {part.numel()} bytes of values; {sum(lengths)} were asked for")
            pieces.update(zip(clients, part.split_with_sizes(lengths), strict=True))

        def read(client: int) -> None:
            if setting.processes.owner(client) == rank:
                values = view_values(pieces[client], value_type)
            else:
                piece, header = pieces[client].tensor_split([len(pieces[client]) - end])
                values = self.channels[client].read_values(piece, value_type)
                if end:
                    self.channels[client].check(header.cpu().numpy().tobytes(), setting.layout.size)
            expand_into(places[client], masks[client], values.to(torch.float32))

        map_items(read, here)
        return rows


def send_indices(
    channels: Sequence[Channel],
    masks: UInt8[Tensor, "messages bytes"],
    universes: UInt8[Tensor, "messages bytes"],
    span: Span,
) -> UInt8[Tensor, "messages bytes"]:
    """Encode a piece of each message's index and decode it at the other end, on this rank."""
    encoded = encode_indices(masks, universes, span)
    for channel, index in zip(channels, encoded, strict=True):
        channel.add_index(index)
    return decode_indices([e.table for e in encoded], [e.index for e in encoded], universes, span)
