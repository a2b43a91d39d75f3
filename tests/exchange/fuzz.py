"""Feed `decode` anything: a library for the tests, and a coverage-guided fuzzer by itself.

    python -m tests.exchange.fuzz [-runs=1000000] [-max_len=600]        (needs `pip install atheris`)

Half of the cases are the fuzzer's bytes as they are; the other half get a fitting checksum, since no fuzzer guesses one
and everything behind it would stay untested. Anything but a decoded message or `DecodeError` ends the run, and so
does memory beyond the layout's.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from fedpurin.exchange.checksum import Section, checksum, combine
from fedpurin.exchange.costs import BLOCK_ENTRY_BYTES, HEADER_BYTES
from fedpurin.exchange.header import DecodeError, Header
from fedpurin.exchange.message import decode
from fedpurin.space import Layout, pack_mask, unpack_mask

LAYOUT = Layout.from_sizes([40, 300])
NUM_BLOCKS = 2


def forge(data: Tensor, *changes: int) -> Tensor:
    """Overwrite bytes (position, value, position, value, …), then make the checksum fit where the lengths do."""
    changed = data.clone()
    for at, byte in zip(changes[::2], changes[1::2], strict=True):
        changed[at] = byte
    return seal(changed)


def seal(data: Tensor) -> Tensor:
    """The message with the checksum that it should have; as it is where its header cannot be read."""
    try:
        header, _ = Header.unpack(bytes(data[:HEADER_BYTES].tolist()))
    except DecodeError:
        return data
    if header.message_bytes(NUM_BLOCKS) != data.numel():
        return data
    lengths = [
        HEADER_BYTES - 8,
        8,
        BLOCK_ENTRY_BYTES * NUM_BLOCKS if header.has_table else 0,
        header.num_values * header.value_type.num_bytes,
        header.index_bytes,
        header.num_counts * header.count_bytes,
    ]
    opening, _, table, values, index, counts = data.split_with_sizes(lengths)
    total = combine(
        checksum(Section.HEADER, opening),
        checksum(Section.TABLE, table),
        checksum(Section.VALUES, values),
        checksum(Section.INDEX, index),
        checksum(Section.COUNTS, counts),
    )
    sealed = data.clone()
    sealed[HEADER_BYTES - 8 : HEADER_BYTES] = torch.frombuffer(bytearray(total.to_bytes(8, "little")), dtype=torch.uint8)
    return sealed


def check(data: bytes, universe: Tensor | None) -> None:
    """Decode; a message that passes must be consistent."""
    try:
        message = decode(data, LAYOUT, universe)
    except DecodeError:
        return
    if message.mask is not None and message.values is not None:
        assert int(unpack_mask(message.mask).sum()) == message.values.numel()
    if message.mask is not None:
        assert message.mask.numel() == LAYOUT.length // 8


def main() -> None:
    import atheris

    torch.set_num_threads(1)
    every_third = pack_mask((torch.arange(LAYOUT.length) % 3 == 0) & LAYOUT.parameter_mask())

    def one(data: bytes) -> None:
        if not data:
            return
        how, body = data[0], data[1:]
        if how & 1 and len(body) >= HEADER_BYTES:
            body = bytes(seal(torch.frombuffer(bytearray(b"FP\x01" + body[3:]), dtype=torch.uint8)).tolist())
        check(body, every_third if how & 2 else None)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
