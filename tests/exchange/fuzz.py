"""Feed `decode` anything: a library for the tests, and a coverage-guided fuzzer by itself.

    python -m tests.exchange.fuzz [-runs=1000000] [-max_len=600]        (needs `pip install atheris`)

The first byte of a case says with which code values are read (bits 3 and up), and how to take the rest: as it is; with
a fitting checksum, since no fuzzer guesses one and everything behind it would stay untested; or as block table, values
and index behind a header that fits them.
Anything but a decoded message or `DecodeError` ends the run, and so does memory beyond `-rss_limit_mb`. Every 200,000
cases it counts what they came to.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from fedpurin.exchange.wire import index
from fedpurin.exchange.wire.channel import Channel, Section
from fedpurin.exchange.wire.codes import Code, Stochastic, Ternary
from fedpurin.exchange.wire.costs import BLOCK_ENTRY_BYTES, HEADER_BYTES
from fedpurin.exchange.wire.header import DecodeError, Header, Kind, ValueType
from fedpurin.exchange.wire.message import Message, decode, encode
from fedpurin.space import Layout, pack_mask, unpack_mask

LAYOUT = Layout.from_sizes([40, 300])
NUM_BLOCKS = 2
CODES: tuple[Code | None, ...] = (None, Stochastic(8, 16), Stochastic(4, 16), Stochastic(1, 16), Ternary())


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
    lengths = header.section_bytes(NUM_BLOCKS)
    if HEADER_BYTES + sum(lengths) != data.numel():
        return data
    opening, _, *pieces = data.split_with_sizes([HEADER_BYTES - 8, 8, *lengths])
    channel = Channel(header.kind, header.client, header.round)
    for section, piece in zip(Section, pieces, strict=True):
        channel.add(section, piece)
    total = channel.checksum(bytes(opening.tolist()))
    sealed = data.clone()
    sealed[HEADER_BYTES - 8 : HEADER_BYTES] = torch.frombuffer(
        bytearray(total.to_bytes(8, "little")), dtype=torch.uint8
    )
    return sealed


def with_header(sections: bytes) -> bytes:
    """Block table, values and index behind a header and checksum that fit them."""
    rest = len(sections) - 1 - BLOCK_ENTRY_BYTES * NUM_BLOCKS
    num_values = min(sections[0] if sections else 0, max(rest, 0) // 4)
    header = Header(
        kind=Kind.UPDATE if num_values else Kind.MASK,
        value_type=ValueType.FLOAT32 if num_values else ValueType.NONE,
        client=1,
        round=2,
        size=LAYOUT.size,
        has_table=True,
        index_bytes=max(rest - 4 * num_values, 0),
        num_values=num_values,
    )
    return bytes(
        seal(torch.frombuffer(bytearray(header.opening() + bytes(8) + sections[1:]), dtype=torch.uint8)).tolist()
    )


def check(data: bytes, universe: Tensor | None, code: Code | None = None) -> str:
    """Decode, and say what it came to; a message that passes must be consistent."""
    try:
        message = decode(data, LAYOUT, universe, code)
    except DecodeError as error:
        return re.sub(r"b'.*'|0x[0-9a-f]+|\d+", "#", str(error))
    if message.mask is not None and message.values is not None:
        assert int(unpack_mask(message.mask).sum()) == message.values.numel()
    if message.mask is not None:
        assert message.mask.numel() == LAYOUT.length // 8
    return "decoded"


def write_corpus(folder: Path, universe: Tensor) -> None:
    """Real messages of every kind and encoding to start from."""
    parameters = LAYOUT.parameter_mask()
    for number, density in enumerate((0.0, 0.01, 0.1, 0.5, 0.97, 1.0)):
        mask = parameters & (torch.rand(LAYOUT.length) < density)
        values = torch.randn(int(mask.sum()))
        own = mask & unpack_mask(universe)
        counts = torch.tensor([2, 3], dtype=torch.uint8)
        messages = [
            (1, encode(Message(Kind.MASK, 1, 2, pack_mask(mask)), LAYOUT)),
            (1, encode(Message(Kind.UPDATE, 1, 2, pack_mask(mask), values), LAYOUT)),
            (1, encode(Message(Kind.UPDATE, 1, 2, pack_mask(mask), values.half()), LAYOUT)),
            (1, encode(Message(Kind.VALUES, 1, 2, None, values), LAYOUT)),
            *(
                (1 | number << 3, encode(Message(Kind.UPDATE, 1, 2, pack_mask(mask), code.encode(values)), LAYOUT))
                for number, code in enumerate(CODES)
                if code is not None
            ),
            (3, encode(Message(Kind.REQUEST, 1, 2, pack_mask(own)), LAYOUT, universe)),
            (
                3,
                encode(Message(Kind.SUMS, 1, 2, pack_mask(own), values[: int(own.sum())], 3, counts), LAYOUT, universe),
            ),
        ]
        for kind, (how, message) in enumerate(messages):
            (folder / f"{number}-{kind}").write_bytes(bytes([how, *message.tolist()]))
        sections = [min(len(values), 255), *messages[1][1][HEADER_BYTES:].tolist()]
        (folder / f"{number}-sections").write_bytes(bytes([4, *sections]))


def main() -> None:
    import atheris

    torch.set_num_threads(1)
    for function in (
        decode,
        Header.unpack.__func__,
        Channel.check,
        Channel.read_values,
        index.decode_index,
        index._refuse,
    ):
        atheris.instrument_func(function)  # the compiled loops cannot report what they reach
    every_third = pack_mask((torch.arange(LAYOUT.length) % 3 == 0) & LAYOUT.parameter_mask())

    outcomes: Counter[str] = Counter()

    def one(data: bytes) -> None:
        how, body = data[0] if data else 0, data[1:]
        if how & 4:
            body = with_header(body)
        elif how & 1 and len(body) >= HEADER_BYTES:
            body = bytes(seal(torch.frombuffer(bytearray(b"FP\x02" + body[3:]), dtype=torch.uint8)).tolist())
        outcomes[check(body, every_third if how & 2 else None, CODES[(how >> 3) % len(CODES)])] += 1
        if outcomes.total() % 200_000 == 0:
            print(*(f"{times:9,}  {outcome}" for outcome, times in outcomes.most_common()), sep="\n", flush=True)

    with tempfile.TemporaryDirectory() as corpus:
        write_corpus(Path(corpus), every_third)
        atheris.Setup([*sys.argv, corpus], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
