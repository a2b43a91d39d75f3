"""Dense exchange: every participant's parameters up, a mean or the server's own mixture down, bucket by bucket.

Owns: FedAvg's mean, FedAMP's mixture by distance, FedCAC's customised mixture (METHOD "What crosses the network"), and a
download for clients that sat out. Does not own: weights and collaborators (given), the order of the sums (`sums.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from fedpurin.exchange.setting import Masks, Setting, Uploads, Vectors
from fedpurin.exchange.sums import Groups, add_up, weigh
from fedpurin.exchange.wire.bits import compress, expand_into
from fedpurin.exchange.wire.blocks import Span
from fedpurin.exchange.wire.channel import Channel
from fedpurin.exchange.wire.header import Kind
from fedpurin.exchange.wire.index import encode_index
from fedpurin.parallel import map_items
from fedpurin.space import unpack_mask

Weigh = Callable[[Float64[Tensor, "clients clients"]], Float64[Tensor, "clients clients"]]


def average(setting: Setting, vectors: Vectors, weights: Mapping[int, float], deliver: bool) -> Tensor:
    """Σ (s_j/Σs)·w_j in ascending id; see `Exchange.average`."""
    shares, receivers = _shares(setting, weights), setting.own if deliver else []
    up, down = _Everything(setting), Channel(Kind.DENSE, 0, setting.round)
    mean = torch.zeros(setting.layout.length, dtype=torch.float32, device=setting.processes.device)
    for span in setting.buckets():
        part = span.of(mean)
        part.copy_(weigh(up.gather(span, vectors), shares))
        if receivers:
            _give(setting, down, span, part, [vectors[client] for client in receivers])
    up.close()
    setting.file_answer(down, "dense", receivers)
    return mean


def mix(
    setting: Setting,
    vectors: Vectors,
    masks: Masks,
    collaborators: Mapping[int, Sequence[int]],
    weights: Mapping[int, float],
) -> None:
    """FedCAC's mixture into own clients' vectors; see `Exchange.combine_dense`."""
    shares, own = _shares(setting, weights), setting.own
    row = {client: number for number, client in enumerate(setting.participants)}
    others = Groups([row[j] for j in collaborators[i] if j != i] for i in own)
    up, down, memory = _Everything(setting), _answers(setting), setting.memory(len(own))

    def run(span: Span) -> None:
        rows = up.gather(span, vectors)
        mean, sums = weigh(rows, shares), add_up(rows, others, span.rows(memory, len(own)))

        def give(k: int) -> None:
            critical, size = span.packed(masks[own[k]]), torch.tensor(float(len(collaborators[own[k]])))
            merged = (sums[k] + rows[row[own[k]]]) / size.to(rows.device)
            mixed = torch.where(unpack_mask(critical), merged, mean)
            _give(setting, down[k], span, mixed, [vectors[own[k]]])

        map_items(give, range(len(own)))

    for span in setting.buckets():
        run(span)
    up.close()
    for channel in down:
        setting.file_answer(channel, "dense", [channel.client])


def mix_by_distance(setting: Setting, vectors: Vectors, weigh_by: Weigh) -> Tensor:
    """Σ_j ξ_ij·w_j into own clients' vectors, with ξ from everybody's squared distances; see `Exchange.mix`."""
    participants = list(setting.participants)
    products = torch.zeros(len(participants), len(participants), dtype=torch.float64, device=setting.processes.device)
    up, again, down = _Everything(setting), _Everything(setting), _answers(setting)
    for span in setting.buckets():
        everything = unpack_mask(span.packed(setting.parameters()))
        rows = up.gather(span, vectors)[:, everything].to(torch.float64)
        products += rows @ rows.T
    up.close()
    norms = products.diagonal()
    weights = weigh_by((norms.unsqueeze(0) + norms.unsqueeze(1) - 2 * products).clamp(min=0)).cpu()
    for span in setting.buckets():
        rows = again.gather(span, vectors)  # the simulator's doing: nobody sends twice
        for channel in down:
            mixture = weigh(rows, weights[participants.index(channel.client)].tolist())
            _give(setting, channel, span, mixture, [vectors[channel.client]])
    for channel in down:
        setting.file_answer(channel, "dense", [channel.client])
    return weights


def download(setting: Setting, vector: Float32[Tensor, " any_length"], clients: Sequence[int]) -> Tensor:
    """`vector` to each of `clients`; returns what arrives, also where none of them lives on this rank."""
    received = torch.zeros(setting.layout.length, dtype=torch.float32, device=vector.device)
    down = Channel(Kind.DENSE, 0, setting.round)
    for span in setting.buckets(1):
        _give(setting, down, span, span.of(vector), [received])
    setting.file_answer(down, "dense", setting.processes.owned(clients))
    return received


def _shares(setting: Setting, weights: Mapping[int, float]) -> list[float]:
    """s_j/Σs of every participant."""
    total = sum(weights[client] for client in setting.participants)
    return [weights[client] / total for client in setting.participants]


def _answers(setting: Setting) -> list[Channel]:
    return [Channel(Kind.DENSE, client, setting.round) for client in setting.own]


class _Everything:
    """Every participant's parameters, from where it lives to every rank."""

    def __init__(self, setting: Setting) -> None:
        everyone = list(setting.participants)
        self.setting = setting
        self.channels = {client: Channel(Kind.DENSE, client, setting.round) for client in everyone}
        self.uploads = Uploads(setting, self.channels, [everyone] * setting.processes.size)

    def gather(self, span: Span, vectors: Vectors) -> Float32[Tensor, "participants positions"]:
        """One bucket of everybody's parameters, one row a participant."""
        everything = span.packed(self.setting.parameters())
        encoded = encode_index(everything, everything, span)
        for channel in self.channels.values():
            channel.add_index(encoded)
        return self.uploads.gather(span, vectors, everything.expand(len(self.channels), -1))

    def close(self) -> None:
        """File the messages."""
        for client in self.setting.own:
            self.setting.file_upload(self.channels[client], "dense")


def _give(setting: Setting, channel: Channel, span: Span, part: Tensor, into: Sequence[Tensor]) -> None:
    """One bucket of an answer, to all who receive it: written once, and read into each of `into`."""
    everything = span.packed(setting.parameters())
    channel.add_index(encode_index(everything, everything, span))
    values = channel.send_values(compress(part, everything), setting.value_type)
    map_items(lambda vector: expand_into(span.of(vector), everything, values), into)
