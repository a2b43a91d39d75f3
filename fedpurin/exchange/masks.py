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
    span, parameters, size = setting.grid.whole, setting.parameters(), setting.layout.size
    table_bytes = BLOCK_ENTRY_BYTES * span.num_blocks
    end = HEADER_BYTES if kind is Kind.MASK else 0  # others end with values, and the header comes with those
    channels = {client: Channel(kind, client, setting.round) for client in setting.participants}
    shared: dict[int, Tensor] = {}
    for batch in setting.batches(mask_message_bytes(setting.layout, span.num_blocks)):
        own = setting.processes.owned(batch)
        packed = torch.stack([masks[client] for client in own]) if own else parameters[None, :][:0]
        encoded = dict(zip(own, encode_indices(packed, parameters, span), strict=True))
        for client, written in encoded.items():
            channels[client].add_index(written)
        headers = {j: [channels[j].header_tensor(size, packed.device)] if end else [] for j in own}
        arrived = setting.gather(batch, {j: torch.cat([i.table, i.index, *headers[j]]) for j, i in encoded.items()})
        split = [message.tensor_split([table_bytes, len(message) - end]) for message in arrived.values()]
        tables, indices = [table for table, _, _ in split], [index for _, index, _ in split]
        for client, (table, index, header) in zip(arrived, split, strict=True):
            if client not in encoded:
                channels[client].add(Section.TABLE, table)
                channels[client].add(Section.INDEX, index)
                if end:
                    channels[client].check(header.cpu().numpy().tobytes(), size)
        shared |= zip(arrived, decode_indices(tables, indices, parameters, span), strict=True)
    for client in setting.own:
        setting.file_upload(channels[client], "mask")
    return shared, channels


def close_masks(setting: Setting, channels: dict[int, Channel]) -> None:
    """Complete mask messages that no values follow."""
    for channel in channels.values():
        channel.kind = Kind.MASK
    setting.deliver(channels, setting.own)
