"""Dense exchange: every participant's parameters up, a mean or the server's own mixture down, bucket by bucket.

Owns: FedAvg's mean, FedAMP's mixture by distance, FedCAC's customised mixture (METHOD "What crosses the network"), and a
download for clients that sat out. Does not own: weights and collaborators (given), the order of the sums (`sums.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from fedpurin.exchange.channel import Channel, Setting
from fedpurin.exchange.groups import Groups
from fedpurin.exchange.sums import BucketRows
from fedpurin.exchange.wire.bits import compress, count, expand_into
from fedpurin.exchange.wire.blocks import EncodedIndex, Span
from fedpurin.exchange.wire.header import Kind, ValueType
from fedpurin.exchange.wire.index import encode_index
from fedpurin.exchange.wire.message import SectionTotals, read_values, view_values, write_values
from fedpurin.parallel import map_items

Vectors = Mapping[int, Float32[Tensor, " any_length"]]
Weigh = Callable[[Float64[Tensor, "clients clients"]], Float64[Tensor, "clients clients"]]


def average(setting: Setting, vectors: Vectors, weights: Mapping[int, float], deliver: bool) -> Tensor:
    """Σ (s_j/Σs)·w_j in ascending id; see `Exchange.average`."""
    shares = _shares(setting, weights)
    up, down = _Uploads(setting), _Downloads(setting, setting.own if deliver else [], common=True)
    mean = torch.zeros(setting.layout.length, dtype=torch.float32, device=setting.processes.device)
    for span in setting.buckets():
        part = mean[span.start : span.stop]
        part.copy_(up.gather(span, vectors).weighted(shares))
        down.send_common(span, part, [vectors[client] for client in down.channels])
    up.close()
    down.close()
    return mean


def mix(
    setting: Setting,
    vectors: Vectors,
    masks: Mapping[int, UInt8[Tensor, " packed"]],
    collaborators: Mapping[int, Sequence[int]],
    weights: Mapping[int, float],
) -> None:
    """FedCAC's mixture into own clients' vectors; see `Exchange.combine_dense`."""
    shares, own = _shares(setting, weights), setting.own
    up, down = _Uploads(setting), _Downloads(setting, own, common=False)
    row = {client: number for number, client in enumerate(setting.participants)}
    others = Groups.of([row[j] for j in collaborators[i] if j != i] for i in own)
    divisors = [len(collaborators[i]) for i in own]
    for span in setting.buckets():
        rows = up.gather(span, vectors)
        mean = rows.weighted(shares)
        if not own:
            continue
        critical = torch.stack([span.packed(masks[client]) for client in own])
        sums, _ = rows.sums(others, [row[client] for client in own], critical, critical, divisors)
        mixed = {}
        for k, client in enumerate(own):
            mixed[client] = mean.clone()
            expand_into(mixed[client], critical[k], sums[k])
        down.send(span, mixed, vectors)
    up.close()
    down.close()


def mix_by_distance(setting: Setting, vectors: Vectors, weigh: Weigh) -> Tensor:
    """Σ_j ξ_ij·w_j into own clients' vectors, with ξ from everybody's squared distances; see `Exchange.mix`."""
    count = len(setting.participants)
    products = torch.zeros(count, count, dtype=torch.float64, device=setting.processes.device)
    up = _Uploads(setting)
    for span in setting.buckets():
        rows = up.gather(span, vectors).values.view(count, -1).to(torch.float64)
        products += rows @ rows.T
    up.close()
    norms = products.diagonal()
    weights = weigh((norms.unsqueeze(0) + norms.unsqueeze(1) - 2 * products).clamp(min=0)).cpu()
    down = _Downloads(setting, setting.own, common=False)
    again = _Uploads(setting)  # `again` is the simulator's: nobody sends twice
    row = {client: number for number, client in enumerate(setting.participants)}
    for span in setting.buckets():
        received = again.gather(span, vectors)
        down.send(span, {i: received.weighted(weights[row[i]].tolist()) for i in setting.own}, vectors)
    down.close()
    return weights


def download(setting: Setting, vector: Float32[Tensor, " any_length"], clients: Sequence[int]) -> Tensor:
    """`vector` to each of `clients`; returns what arrives, also where none of them lives on this rank."""
    received = torch.zeros(setting.layout.length, dtype=torch.float32, device=vector.device)
    down = _Downloads(setting, setting.processes.owned(clients), common=True)
    wire = setting.value_type.dtype
    for span in setting.buckets(1):
        part = vector[span.start : span.stop]
        received[span.start : span.stop] = part.to(wire).to(torch.float32)
        down.send_common(span, part, [received])
    down.close()
    return received


def _shares(setting: Setting, weights: Mapping[int, float]) -> list[float]:
    """s_j/Σs of every participant."""
    total = sum(weights[client] for client in setting.participants)
    return [weights[client] / total for client in setting.participants]


class _Uploads:
    """Every participant's parameters, from where it lives to every rank."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.channels = {client: Channel(Kind.DENSE, client) for client in setting.participants}
        self.memory = torch.empty(0, dtype=torch.float32, device=setting.processes.device)

    def gather(self, span: Span, vectors: Vectors) -> BucketRows:
        """One bucket of everybody's parameters, one row a participant."""
        setting, processes = self.setting, self.setting.processes
        everything = span.packed(setting.parameters())
        encoded = encode_index(everything, everything, span)

        rows = self._rows(count(everything))
        places = dict(zip(setting.participants, rows, strict=True))

        def write(client: int) -> Tensor:
            totals = self.channels[client].totals
            totals.add_index(encoded)
            selected = compress(vectors[client][span.start : span.stop], everything, out=places[client])
            return write_values(totals, selected, setting.value_type)

        pieces = map_items(write, setting.own)
        if setting.value_type is not ValueType.FLOAT32:
            for client, piece in zip(setting.own, pieces, strict=True):
                places[client].copy_(view_values(piece, setting.value_type))
        if processes.size > 1:
            self._receive(processes.all_gather(torch.cat([everything[:0], *pieces])), encoded, places)
        return BucketRows(everything.expand(len(rows), -1).contiguous(), rows.view(-1))

    def _rows(self, width: int) -> Tensor:
        """Memory for one bucket that the next bucket uses again."""
        size = len(self.setting.participants) * width
        if self.memory.numel() < size:
            self.memory = torch.empty(size, dtype=torch.float32, device=self.memory.device)
        return self.memory[:size].view(len(self.setting.participants), width)

    def _receive(self, arrived: Sequence[Tensor], encoded: EncodedIndex, places: Mapping[int, Tensor]) -> None:
        """Read what other ranks' clients sent, each into its place."""
        setting, processes = self.setting, self.setting.processes
        parts: dict[int, Tensor] = {}
        for rank, piece in enumerate(arrived):
            clients = [client for client in setting.participants if processes.owner(client) == rank != processes.rank]
            if clients:
                parts.update(
                    zip(clients, piece.split_with_sizes([piece.numel() // len(clients)] * len(clients)), strict=True)
                )

        def read(client: int) -> None:
            totals = self.channels[client].totals
            totals.read_index(encoded.table, encoded.index)
            places[client].copy_(read_values(totals, parts[client], setting.value_type))

        map_items(read, parts)

    def close(self) -> None:
        """Complete, check and file the messages."""
        setting = self.setting
        headers = {client: setting.close(self.channels[client], setting.value_type) for client in setting.own}
        setting.deliver(headers, self.channels)
        for client in setting.own:
            setting.file(self.channels[client], "up", "dense", setting.value_type)


class _Downloads:
    """The server's answer to clients of this rank. With `common` all receive the same, which is encoded once."""

    def __init__(self, setting: Setting, clients: Sequence[int], *, common: bool) -> None:
        self.setting = setting
        body = SectionTotals()
        self.channels = {client: Channel(Kind.DENSE, client, body if common else SectionTotals()) for client in clients}

    def send(self, span: Span, parts: Mapping[int, Float32[Tensor, " positions"]], into: Vectors) -> None:
        """One bucket of each client's answer, written into `into` as it arrives."""
        everything = span.packed(self.setting.parameters())
        encoded = encode_index(everything, everything, span)

        def give(client: int) -> None:
            values = self._encode(self.channels[client], parts[client], everything, encoded)
            expand_into(into[client][span.start : span.stop], everything, values)

        map_items(give, self.channels)

    def send_common(self, span: Span, part: Float32[Tensor, " positions"], into: Sequence[Tensor]) -> None:
        """One bucket of everybody's answer."""
        if not self.channels:
            return
        everything = span.packed(self.setting.parameters())
        encoded = encode_index(everything, everything, span)
        values = self._encode(next(iter(self.channels.values())), part, everything, encoded)
        map_items(lambda vector: expand_into(vector[span.start : span.stop], everything, values), into)

    def _encode(self, channel: Channel, part: Tensor, everything: Tensor, encoded: EncodedIndex) -> Tensor:
        channel.totals.add_index(encoded)
        return channel.send_values(compress(part, everything), self.setting.value_type)

    def close(self) -> None:
        """Complete and file the messages."""
        for channel in self.channels.values():
            self.setting.close(channel, self.setting.value_type)
            self.setting.file(channel, "down", "dense", self.setting.value_type)
