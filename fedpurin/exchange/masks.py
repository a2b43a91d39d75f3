"""Masks go up: METHOD step 4's first half, and all that decides who collaborates.

Owns: sending own clients' packed masks to every rank, as many at a time as a bucket holds. Does not own: the values.
Under `exchange: direct` a mask opens the message that the values complete, so its header comes with them; the
ledger counts the header with the mask.
"""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor

from fedpurin.exchange.setting import Masks, Setting
from fedpurin.exchange.wire.channel import Channel, Section
from fedpurin.exchange.wire.costs import BLOCK_ENTRY_BYTES, HEADER_BYTES
from fedpurin.exchange.wire.header import Kind
from fedpurin.exchange.wire.index import decode_indices, encode_indices
from fedpurin.space import Layout


def mask_message_bytes(layout: Layout, num_blocks: int) -> int:
    """The most that a mask message can weigh: every block a bitmap. FedCAC's packed mask."""
    return HEADER_BYTES + BLOCK_ENTRY_BYTES * num_blocks + sum(-(-segment.size // 8) for segment in layout)


def share_masks(
    setting: Setting, masks: Masks, kind: Kind
) -> tuple[dict[int, UInt8[Tensor, " packed"]], dict[int, Channel]]:
    """Every participant's mask, decoded, and the opened messages: all participants', as this rank reads them."""
    span, parameters = setting.grid.whole, setting.parameters()
    channels = {client: Channel(kind, client, setting.round) for client in setting.participants}
    shared: dict[int, Tensor] = {}
    for batch in setting.batches(mask_message_bytes(setting.layout, span.num_blocks)):
        own = setting.processes.owned(batch)
        packed = torch.stack([masks[client] for client in own]) if own else parameters[None, :][:0]
        encoded = dict(zip(own, encode_indices(packed, parameters, span), strict=True))
        arrived = setting.gather({client: torch.cat([index.table, index.index]) for client, index in encoded.items()})
        tables = [message[: BLOCK_ENTRY_BYTES * span.num_blocks] for message in arrived.values()]
        indices = [message[BLOCK_ENTRY_BYTES * span.num_blocks :] for message in arrived.values()]
        for client, table, index in zip(arrived, tables, indices, strict=True):
            if client in encoded:
                channels[client].add_index(encoded[client])
            else:
                channels[client].add(Section.TABLE, table)
                channels[client].add(Section.INDEX, index)
        shared |= zip(arrived, decode_indices(tables, indices, parameters, span), strict=True)
    for client in setting.own:
        setting.file_upload(channels[client], "mask")
    return shared, channels


def close_masks(setting: Setting, channels: dict[int, Channel]) -> None:
    """Complete mask messages that no values follow."""
    for channel in channels.values():
        channel.kind = Kind.MASK
    setting.deliver(channels, setting.own)
