"""Whole messages: updates that a method shapes itself, sparse or coded, and small statistics; one client at a time.

Owns: every participant's message up to every rank that sums, in ascending id, the server's answers, messages from client
to client; their entry in the ledger. Does not own: what an update holds (methods/), bytes (`wire/message.py`). A rank
holds the messages of a batch of clients, as many as a bucket takes, and one decoded vector at a time, so memory does
not grow with clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from fedpurin.exchange.channel import Setting
from fedpurin.exchange.ledger import Phase
from fedpurin.exchange.wire.bits import compress, count, expand_into
from fedpurin.exchange.wire.codes import Code
from fedpurin.exchange.wire.costs import VALUE_BYTES
from fedpurin.exchange.wire.header import DecodeError, Kind
from fedpurin.exchange.wire.message import Message, decode, encode_counted, narrow


@dataclass(frozen=True)
class Update:
    """What one message says of a vector: values where `mask` is set (None: everywhere), nothing elsewhere.

    With a `code` the values travel as its bytes; `generator` is what its rounding draws from.
    """

    vector: Float32[Tensor, " any_length"]
    mask: UInt8[Tensor, " packed"] | None = None
    code: Code | None = None
    generator: torch.Generator | None = None


@dataclass(frozen=True)
class Received:
    """An update as it arrived: rounded as it was on the wire, zero where nothing was sent."""

    vector: Float32[Tensor, " length"]
    mask: UInt8[Tensor, " packed"]


def gather(
    setting: Setting, updates: Mapping[int, Update], *, code: Code | None, phase: Phase
) -> Iterator[tuple[int, Received]]:
    """Every participant's update, in ascending id, on every rank; see `Exchange.gather`."""

    def record(client: int, by_encoding: Mapping[str, int]) -> None:
        if setting.processes.owner(client) == setting.processes.rank:
            setting.ledger.record(setting.round, client, "up", phase, by_encoding)

    return _travel(setting, updates, code, record)


def send_to_peers(
    setting: Setting, updates: Mapping[int, Update], senders: Mapping[int, Sequence[int]]
) -> Iterator[tuple[int, Received]]:
    """Every participant's update, as `gather`, counted from client to client; see `Exchange.send_to_peers`."""
    receivers: dict[int, list[int]] = {client: [] for client in setting.participants}
    for receiver in setting.participants:
        for sender in senders[receiver]:
            receivers[sender].append(receiver)

    def record(client: int, by_encoding: Mapping[str, int]) -> None:
        for receiver in receivers[client]:
            for end, direction in ((client, "up"), (receiver, "down")):
                if setting.processes.owner(end) == setting.processes.rank:
                    setting.ledger.record(setting.round, end, direction, "peers", by_encoding)  # type: ignore[arg-type]

    return _travel(setting, updates, None, record)


def _travel(
    setting: Setting,
    updates: Mapping[int, Update],
    code: Code | None,
    record: Callable[[int, Mapping[str, int]], None],
) -> Iterator[tuple[int, Received]]:
    """Bring every participant's message to every rank, a bucket's worth at a time, and record each on all of them."""
    processes, device = setting.processes, setting.processes.device
    worst = max(1, 2 * VALUE_BYTES["float32"] * setting.layout.length)  # no message is as long
    at_a_time = max(1, setting.bucket_bytes // worst)
    for first in range(0, len(setting.participants), at_a_time):
        batch = setting.participants[first : first + at_a_time]
        written = [_write(setting, client, updates[client]) for client in processes.owned(batch)]
        pieces = [data for data, _ in written]
        joined = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.uint8, device=device)
        counted = processes.gather_objects([(data.numel(), dict(by_encoding)) for data, by_encoding in written])
        arrived: dict[int, Tensor] = {}
        for rank, piece in enumerate(processes.all_gather(joined)):
            clients = [client for client in batch if processes.owner(client) == rank]
            arrived.update(zip(clients, piece.split_with_sizes([length for length, _ in counted[rank]]), strict=True))
            for client, (_, by_encoding) in zip(clients, counted[rank], strict=True):
                record(client, by_encoding)
        for client in batch:
            yield client, _read(setting, client, arrived[client], code)


def answer(setting: Setting, updates: Mapping[int, Update], *, phase: Phase) -> dict[int, Received]:
    """The server's update for clients of this rank, as each receives it."""
    received = {}
    for client, update in updates.items():
        data, by_encoding = _write(setting, client, update)
        setting.ledger.record(setting.round, client, "down", phase, by_encoding)
        received[client] = _read(setting, client, data, update.code)
    return received


def _write(setting: Setting, client: int, update: Update) -> tuple[Tensor, Mapping[str, int]]:
    """The message's bytes, and how many of them are what."""
    everything = setting.parameters()
    mask = everything if update.mask is None else update.mask
    values = _coded(setting, update, mask)
    kind = Kind.DENSE if update.mask is None else Kind.UPDATE
    return encode_counted(Message(kind, client, setting.round, mask, values), setting.layout)


def _read(setting: Setting, client: int, data: Tensor, code: Code | None) -> Received:
    message = decode(data.clone(), setting.layout, code=code)  # aligned: it may be a piece of what a rank sent
    if (message.client, message.round) != (client, setting.round) or message.values is None or message.mask is None:
        raise DecodeError(f"{message.kind.name} of client {message.client} where client {client}'s was waited for")
    vector = torch.zeros(setting.layout.length, dtype=torch.float32, device=data.device)
    expand_into(vector, message.mask, message.values.to(torch.float32))
    return Received(vector, message.mask)


def rounded(setting: Setting, update: Update) -> Tensor:
    """What arrives where `update` is sent."""
    mask = setting.parameters() if update.mask is None else update.mask
    values = _coded(setting, update, mask)
    values = values if update.code is None else update.code.decode(values, count(mask))
    vector = torch.zeros(setting.layout.length, dtype=torch.float32, device=values.device)
    expand_into(vector, mask, values.to(torch.float32))
    return vector


def _coded(setting: Setting, update: Update, mask: Tensor) -> Tensor:
    values = compress(update.vector[: setting.layout.length], mask)
    return narrow(values, setting.value_type) if update.code is None else update.code.encode(values, update.generator)


def spread(setting: Setting, vector: Tensor | None, clients: Sequence[int]) -> Tensor:
    """What the clients of one rank hold in common with all others, on every rank; nobody sends it, so nothing counts.

    `vector` may be None on ranks that own none of `clients`.
    """
    length, processes = setting.layout.length, setting.processes
    if processes.size == 1:
        assert vector is not None
        return vector[:length].clone()
    speaks = processes.owner(clients[0]) == processes.rank
    common = torch.empty(length, dtype=torch.float32, device=processes.device)
    for span in setting.buckets(processes.size):
        part = common[span.start : span.stop]
        own = vector[span.start : span.stop] if speaks and vector is not None else part[:0]
        pieces = processes.all_gather(own.contiguous().view(torch.uint8))
        part.copy_(pieces[processes.owner(clients[0])].clone().view(torch.float32))
    return common
