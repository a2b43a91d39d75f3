"""Masks go up: METHOD step 4's first half, and all that decides who collaborates.

Owns: sending own clients' packed masks to every rank, as many at a time as a bucket holds. Does not own: the values.
Under `exchange: direct` a mask opens the message that the values complete, so its header comes with them; the
ledger counts the header with the mask.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import UInt8
from torch import Tensor

from fedpurin.exchange.channel import Channel, Setting
from fedpurin.exchange.wire.costs import BLOCK_ENTRY_BYTES, HEADER_BYTES
from fedpurin.exchange.wire.header import Kind, ValueType
from fedpurin.exchange.wire.index import decode_indices, encode_indices
from fedpurin.space import Layout

Masks = dict[int, UInt8[Tensor, " packed"]]


def mask_message_bytes(layout: Layout, num_blocks: int) -> int:
    """The most that a mask message can weigh: every block a bitmap. FedCAC's packed mask."""
    return HEADER_BYTES + BLOCK_ENTRY_BYTES * num_blocks + sum(-(-segment.size // 8) for segment in layout)


def share_masks(
    setting: Setting, masks: Mapping[int, UInt8[Tensor, " packed"]], kind: Kind
) -> tuple[Masks, dict[int, Channel]]:
    """Every participant's mask, decoded, and the opened messages: all participants', as this rank reads them."""
    span, parameters = setting.grid.whole, setting.parameters()
    table_bytes = BLOCK_ENTRY_BYTES * span.num_blocks
    channels = {client: Channel(kind, client) for client in setting.participants}
    shared: Masks = {}
    for batch in _batches(setting):
        own = torch.stack([masks[client] for client in batch]) if batch else parameters.new_empty(0, len(parameters))
        pieces, lengths = [parameters[:0]], {}
        for client, encoded in zip(batch, encode_indices(own, parameters, span), strict=True):
            channels[client].totals.add_index(encoded)
            pieces += [encoded.table, encoded.index]
            lengths[client] = encoded.index.numel()
        announced = setting.processes.gather_objects(lengths)
        tables, indices, senders = [], [], []
        for clients, arrived in zip(announced, setting.processes.all_gather(torch.cat(pieces)), strict=True):
            messages = arrived.split_with_sizes([table_bytes + length for length in clients.values()])
            for client, message in zip(clients, messages, strict=True):
                table, index = message[:table_bytes], message[table_bytes:]
                if setting.processes.owner(client) != setting.processes.rank:
                    channels[client].totals.read_index(table, index)
                tables.append(table)
                indices.append(index)
                senders.append(client)
        shared |= zip(senders, decode_indices(tables, indices, parameters, span), strict=True)
    for client in setting.own:
        setting.file(channels[client], "up", "mask", ValueType.NONE)
    return {client: shared[client] for client in setting.participants}, channels


def close_masks(setting: Setting, channels: Mapping[int, Channel]) -> None:
    """Complete mask messages that no values follow."""
    for channel in channels.values():
        channel.kind = Kind.MASK
    setting.deliver({client: setting.close(channels[client], ValueType.NONE) for client in setting.own}, channels)


def _batches(setting: Setting) -> list[list[int]]:
    """Own clients in as many batches as the rank with the most clients needs."""
    message = mask_message_bytes(setting.layout, setting.grid.num_blocks)
    at_a_time = max(1, setting.bucket_bytes // (message * setting.processes.size))
    homes = [setting.processes.owner(client) for client in setting.participants]
    most = max((homes.count(rank) for rank in set(homes)), default=0)
    return [setting.own[first : first + at_a_time] for first in range(0, most, at_a_time)]
