"""What a method calls to let clients exchange: masks, sparse values, dense values. Everything is really encoded.

Owns: the rounds' order of messages and collectives, buckets, and filing every message in the ledger. Does not own:
sparse combination inside a bucket (`sparse.py`), encodings (`message.py`), who collaborates (`aggregation.py`).

Every method here is a collective: all ranks call it, in the same order. Vectors are those of the clients that live
on this rank; everything that is said about all participants (ids, masks, collaborators, weights) is the same on
every rank. The server is spread over the ranks: each acts for the clients that live there. So messages from the
server stay on their rank, while a client's values travel to the ranks whose clients use them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from fedpurin.config import ExchangeConfig
from fedpurin.exchange.bits import compress, expand_into
from fedpurin.exchange.blocks import Span, grid_of
from fedpurin.exchange.costs import (
    BLOCK_ENTRY_BYTES,
    HEADER_BYTES,
    dense_bytes,
)
from fedpurin.exchange.header import Kind, ValueType
from fedpurin.exchange.index import decode_index, encode_index
from fedpurin.exchange.ledger import Ledger
from fedpurin.exchange.processes import Processes
from fedpurin.exchange.sparse import Channel, Fill, Normalise, SparseRound
from fedpurin.exchange.sums import BucketRows
from fedpurin.space import Layout


class Exchange:
    """One run's exchange over the shared parameters of `layout`."""

    def __init__(self, config: ExchangeConfig, layout: Layout, processes: Processes, ledger: Ledger) -> None:
        self.config, self.layout, self.processes, self.ledger = config, layout, processes, ledger
        self.value_type = ValueType.named(config.value_dtype)
        self.grid = grid_of(layout)
        self.parameters = self.grid.parameters.to(processes.device)
        self.mask_bytes = (
            HEADER_BYTES + BLOCK_ENTRY_BYTES * self.grid.num_blocks + sum(-(-segment.size // 8) for segment in layout)
        )
        self.round = -1
        self.participants: list[int] = []
        self.own: list[int] = []
        self._opened: dict[int, Channel] = {}

    def begin_round(self, round: int, participants: Sequence[int]) -> None:
        """Name the clients that take part in what follows, in ascending id.

        A second call in the same round narrows the participants (some have diverged); what dense exchange would have
        cost is filed at the first.
        """
        if list(participants) != sorted(set(participants)):
            raise ValueError(f"participants {list(participants)} are not in ascending order, each once")
        is_new, self.round = round != self.round, round
        self.participants = list(participants)
        self.own = self.processes.owned(self.participants)
        self._opened = {}
        dense = dense_bytes(self.layout, self.value_type.num_bytes)
        for client in self.own if is_new else ():
            self.ledger.record_baseline(round, client, dense, self.mask_bytes)

    def share_masks(self, masks: Mapping[int, UInt8[Tensor, " length/8"]]) -> dict[int, UInt8[Tensor, " length/8"]]:
        """Send own clients' packed masks up, and return every participant's as decoded.

        With `direct` the mask opens the message that `combine` completes with the values. Masks travel whole, as many
        at a time as a bucket holds.
        """
        span, shared = self.grid.whole, {}
        for batch in self._mask_batches():
            lengths: dict[int, int] = {}
            pieces: list[Tensor] = []
            for client in batch:
                channel = Channel(Kind.UPDATE if self.config.mode == "direct" else Kind.MASK, client)
                encoded = encode_index(masks[client], self.parameters, span)
                channel.written.add_index(encoded)
                pieces += [encoded.table, encoded.index]
                lengths[client] = encoded.index.numel()
                self._opened[client] = channel
            outgoing = torch.cat(pieces) if pieces else self.parameters[:0]
            announced = self.processes.gather_objects(lengths)
            for clients, incoming in zip(announced, self.processes.all_gather(outgoing), strict=True):
                at = 0
                for client, length in clients.items():
                    table, index = incoming[at:].split_with_sizes(
                        [
                            BLOCK_ENTRY_BYTES * span.num_blocks,
                            length,
                            incoming.numel() - at - BLOCK_ENTRY_BYTES * span.num_blocks - length,
                        ]
                    )[:2]
                    at += table.numel() + length
                    self._opened.setdefault(client, Channel(Kind.UPDATE, client)).read.read_index(table, index)
                    shared[client] = decode_index(table.clone(), index, self.parameters, span)
        if self.config.mode == "on_demand":
            self._close_masks()
        for client in self.own:
            channel = self._opened[client]
            channel.filed = channel.written.encoding_bytes.copy()
            if self.config.mode == "direct":
                channel.filed["header"] += HEADER_BYTES
            self.ledger.record(self.round, client, "up", "mask", channel.filed)
        return {client: shared[client] for client in self.participants}

    def combine(
        self,
        vectors: Mapping[int, Float32[Tensor, " any_length"]],
        masks: Mapping[int, UInt8[Tensor, " length/8"]],
        collaborators: Mapping[int, Sequence[int]],
        *,
        normalise: Normalise = "collaborators",
        fill: Fill = "local",
        weights: Mapping[int, float] | None = None,
    ) -> None:
        """METHOD steps 6 and 7: merge collaborators' critical values into own clients' vectors, in place.

        `masks` as `share_masks` returned them; `vectors[i]` begins with the shared parameters; `weights` are the
        numbers of training samples, which `fill: global` needs.
        """
        if fill == "global" and weights is None:
            raise ValueError("fill: global needs the clients' numbers of samples (weights)")
        sparse = SparseRound(
            round=self.round,
            layout=self.layout,
            processes=self.processes,
            ledger=self.ledger,
            value_type=self.value_type,
            vectors=vectors,
            masks=masks,
            collaborators=collaborators,
            normalise=normalise,
            weights=self._shares(weights) if fill == "global" and weights else None,
            uploads=self._opened if self.config.mode == "direct" else None,
        )
        for span in self._buckets():
            sparse.run(span)
        sparse.close()

    def combine_dense(
        self,
        vectors: Mapping[int, Float32[Tensor, " any_length"]],
        masks: Mapping[int, UInt8[Tensor, " length/8"]],
        collaborators: Mapping[int, Sequence[int]],
        *,
        weights: Mapping[int, float],
    ) -> None:
        """FedCAC: where i is critical the mean over C_i, elsewhere the weighted mean over all, in place.

        Vectors go up dense and come down dense; the masks went up by `share_masks`.
        """
        self._close_masks()
        shares = self._shares(weights)
        uploads, downloads = self._dense_channels(), self._dense_channels()
        for span in self._buckets():
            everything, rows = self._gather_dense(span, vectors, uploads)
            mean = rows.weighted(shares, everything)
            for client in self.own:
                critical = span.packed(masks[client])
                others = [other for other in collaborators[client] if other != client]
                own = (rows.sums(others, critical) + rows.row(client, critical)) / (len(others) + 1)
                merged = torch.zeros(span.stop - span.start, device=mean.device)
                expand_into(merged, everything, mean)
                expand_into(merged, critical, own)
                self._deliver(span, downloads[client], compress(merged, everything), vectors[client])
        self._close_dense(uploads, "up")
        self._close_dense(downloads, "down")

    def average(
        self,
        vectors: Mapping[int, Float32[Tensor, " any_length"]],
        weights: Mapping[int, float],
        *,
        deliver: bool = True,
    ) -> Float32[Tensor, " length"]:
        """FedAvg: the mean of all participants' shared parameters, weighted by `weights` (say, samples).

        Σ (s_j/Σs)·w_j in ascending id, each product and sum in float32. Goes up dense and, with `deliver`, comes down
        dense into own participants' vectors. Returns the mean, the same bits on every rank.
        """
        shares = self._shares(weights)
        uploads, downloads = self._dense_channels(), self._dense_channels()
        mean = torch.zeros(self.layout.length, dtype=torch.float32, device=self.processes.device)
        for span in self._buckets():
            everything, rows = self._gather_dense(span, vectors, uploads)
            part = rows.weighted(shares, everything)
            expand_into(mean[span.start : span.stop], everything, part)
            for client in self.own if deliver else ():
                self._deliver(span, downloads[client], part, vectors[client])
        self._close_dense(uploads, "up")
        if deliver:
            self._close_dense(downloads, "down")
        return mean

    def download(self, vector: Float32[Tensor, " length"], clients: Sequence[int]) -> Float32[Tensor, " length"]:
        """Send `vector` from the server to clients, dense, and return what arrives (rounded, with 16-bit values).

        For clients that sat out and catch up: they need not be participants. Ids that live on other ranks are theirs to file.
        """
        received = torch.zeros_like(vector[: self.layout.length])
        for client in self.processes.owned(clients):
            channel = Channel(Kind.DENSE, client)
            for span in self._buckets(1):
                everything = span.packed(self.parameters)
                self._deliver(span, channel, compress(vector[span.start : span.stop], everything), received)
            self._close_dense({client: channel}, "down")
        return received

    def _shares(self, weights: Mapping[int, float]) -> dict[int, float]:
        """s_j/Σs over the participants."""
        total = sum(weights[client] for client in self.participants)
        return {client: weights[client] / total for client in self.participants}

    def _buckets(self, num_rows: int | None = None) -> list[Span]:
        rows = num_rows or max(len(self.participants), 1)
        return list(self.grid.buckets(int(self.config.bucket_mib * 2**20 / (4 * rows))))

    def _mask_batches(self) -> list[list[int]]:
        """Own clients in as many batches as the rank with the most clients needs."""
        per_rank = max(1, int(self.config.bucket_mib * 2**20) // (self.mask_bytes * self.processes.size))
        most = max(
            sum(self.processes.owner(client) == rank for client in self.participants)
            for rank in range(self.processes.size)
        )
        return [self.own[first : first + per_rank] for first in range(0, most, per_rank)]

    def _close_masks(self) -> None:
        """Write the headers of the mask messages that no values follow, and check them."""
        headers = {
            client: self._opened[client].written.close(Kind.MASK, ValueType.NONE, client, self.round, self.layout.size)
            for client in self.own
            if client in self._opened
        }
        for part in self.processes.gather_objects(headers):
            for client, header in part.items():
                self._opened[client].read.check(header)
        self._opened = {client: channel for client, channel in self._opened.items() if client in self.own}

    def _dense_channels(self) -> dict[int, Channel]:
        return {client: Channel(Kind.DENSE, client) for client in self.participants}

    def _gather_dense(
        self, span: Span, vectors: Mapping[int, Tensor], uploads: Mapping[int, Channel]
    ) -> tuple[Tensor, BucketRows]:
        """One bucket of every participant's parameters, and the packed mask of all parameters in it."""
        everything = span.packed(self.parameters)
        pieces = []
        for client in self.own:
            uploads[client].send_index(everything, everything, span)
            values = compress(vectors[client][span.start : span.stop], everything)
            pieces.append(uploads[client].write_values(values, self.value_type))
        incoming = self.processes.all_gather(torch.cat(pieces) if pieces else everything[:0])
        values = {}
        for rank, piece in enumerate(incoming):
            clients = [client for client in self.participants if self.processes.owner(client) == rank]
            for client, part in zip(clients, piece.view(len(clients), -1) if clients else (), strict=True):
                values[client] = uploads[client].receive_values(part, self.value_type)
        return everything, BucketRows(dict.fromkeys(self.participants, everything), values)

    def _deliver(self, span: Span, channel: Channel, values: Tensor, vector: Tensor) -> None:
        everything = span.packed(self.parameters)
        at = channel.send_index(everything, everything, span)
        expand_into(vector[span.start : span.stop], at, channel.send_values(values, self.value_type))

    def _close_dense(self, channels: Mapping[int, Channel], direction: str) -> None:
        for client, channel in channels.items():
            if self.processes.owner(client) != self.processes.rank:
                continue
            header = channel.written.close(Kind.DENSE, self.value_type, client, self.round, self.layout.size)
            channel.read.check(header)
            self.ledger.record(
                self.round, client, "up" if direction == "up" else "down", "dense", channel.written.encoding_bytes
            )
