"""Whole messages: updates that a method shapes itself, sparse or coded, and small statistics; one client at a time.

Owns: every participant's message up to every rank that sums, in ascending id, the server's answers, messages from client
to client; their entry in the ledger. Does not own: what an update holds (methods/), bytes (`wire/message.py`). A rank
holds the messages of a batch of clients, as many as a bucket takes, and one decoded vector at a time, so memory does
not grow with clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from fedpurin.exchange.ledger import Phase
from fedpurin.exchange.setting import Setting
from fedpurin.exchange.wire.bits import compress, count, expand_into
from fedpurin.exchange.wire.channel import narrow
from fedpurin.exchange.wire.codes import Code
from fedpurin.exchange.wire.costs import VALUE_BYTES
from fedpurin.exchange.wire.header import DecodeError, Kind
from fedpurin.exchange.wire.message import Message, decode, encode_counted


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
    for client, received, by_encoding in _travel(setting, updates, code):
        if setting.processes.owns(client):
            setting.ledger.record(setting.round, client, "up", phase, by_encoding)
        yield client, received


def send_to_peers(
    setting: Setting, updates: Mapping[int, Update], senders: Mapping[int, Sequence[int]]
) -> Iterator[tuple[int, Received]]:
    """Every participant's update, as `gather`, counted from client to client; see `Exchange.send_to_peers`."""
    for client, received, by_encoding in _travel(setting, updates, None):
        for receiver in setting.participants:
            if client in senders[receiver] and setting.processes.owns(client):
                setting.ledger.record(setting.round, client, "up", "peers", by_encoding)
            if client in senders[receiver] and setting.processes.owns(receiver):
                setting.ledger.record(setting.round, receiver, "down", "peers", by_encoding)
        yield client, received


def _travel(
    setting: Setting, updates: Mapping[int, Update], code: Code | None
) -> Iterator[tuple[int, Received, Mapping[str, int]]]:
    """Bring every participant's message to every rank, a bucket's worth at a time, with its bytes by encoding."""
    worst = 2 * VALUE_BYTES["float32"] * setting.layout.length  # no message is as long
    for batch in setting.batches(worst):
        written = {client: _write(setting, client, updates[client]) for client in setting.processes.owned(batch)}
        arrived = setting.gather(batch, {client: data for client, (data, _) in written.items()})
        counted = setting.processes.gather_objects({client: dict(kinds) for client, (_, kinds) in written.items()})
        by_encoding = {client: kinds for part in counted for client, kinds in part.items()}
        for client, data in arrived.items():
            yield client, _read(setting, client, data, code), by_encoding[client]


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
    mask, values = _coded(setting, update)
    kind = Kind.DENSE if update.mask is None else Kind.UPDATE
    return encode_counted(Message(kind, client, setting.round, mask, values), setting.layout)


def _read(setting: Setting, client: int, data: Tensor, code: Code | None) -> Received:
    message = decode(data.clone(), setting.layout, code=code)  # aligned: it may be a piece of what a rank sent
    if (message.client, message.round) != (client, setting.round) or message.values is None or message.mask is None:
        raise DecodeError(f"{message.kind.name} of client {message.client} where client {client}'s was waited for")
    return Received(_spread(setting, message.mask, message.values), message.mask)


def rounded(setting: Setting, update: Update) -> Tensor:
    """What arrives where `update` is sent."""
    mask, values = _coded(setting, update)
    return _spread(setting, mask, values if update.code is None else update.code.decode(values, count(mask)))


def _coded(setting: Setting, update: Update) -> tuple[Tensor, Tensor]:
    """The positions, and the values as they travel."""
    mask = setting.parameters() if update.mask is None else update.mask
    values = compress(update.vector[: setting.layout.length], mask)
    coded = narrow(values, setting.value_type) if update.code is None else update.code.encode(values, update.generator)
    return mask, coded


def _spread(setting: Setting, mask: Tensor, values: Tensor) -> Tensor:
    """Values at the mask's positions, zeros elsewhere."""
    vector = torch.zeros(setting.layout.length, dtype=torch.float32, device=values.device)
    expand_into(vector, mask, values.to(torch.float32))
    return vector
