"""The wire format: bytes by hand, inverses, every flipped bit, and only one kind of error from any bytes."""

from __future__ import annotations

import struct

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedpurin.exchange.wire.blocks import grid_of
from fedpurin.exchange.wire.channel import Channel, Section, fits
from fedpurin.exchange.wire.costs import HEADER_BYTES, VALUE_BYTES, Encoding, dense_bytes, encoding_costs
from fedpurin.exchange.wire.header import DecodeError, Header, Kind, ValueType
from fedpurin.exchange.wire.index import decode_index, encode_index
from fedpurin.exchange.wire.message import Message, decode, encode
from fedpurin.space import Layout, pack_mask, unpack_mask
from tests.exchange.fuzz import forge

SIZES = [1, 7, 100, 16_384, 16_385, 40_000, 1000]
DENSITIES = [0.0, 0.0005, 0.003, 0.02, 0.05, 0.5, 0.95, 0.9999, 1.0]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


def random_update(layout: Layout, density: float, dtype: torch.dtype = torch.float32) -> Message:
    mask = (torch.rand(layout.length) < density) & layout.parameter_mask()
    return Message(Kind.UPDATE, 3, 7, pack_mask(mask), torch.randn(int(mask.sum())).to(dtype))


def assert_same(one: Message, other: Message) -> None:
    for name in ("kind", "client", "round", "members"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("mask", "values", "counts"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        assert a is None or (a.dtype == b.dtype and torch.equal(a.to(torch.float64), b.to(torch.float64)))


def test_a_message_by_hand() -> None:
    layout = Layout.from_sizes([10, 70])
    mask = torch.zeros(layout.length, dtype=torch.bool)
    mask[[1, 3, 64 + 69]] = True
    data = bytes(encode(Message(Kind.UPDATE, 5, 9, pack_mask(mask), torch.tensor([1.0, 2.0, -3.0])), layout).tolist())
    header = b"FP" + struct.pack("<BBBBHIIIIII", 2, Kind.UPDATE, ValueType.FLOAT32, 0x80, 0, 5, 9, 80, 3, 3, 0)
    table = struct.pack("<HBB", 2, 0, Encoding.BITMAP) + struct.pack("<HBB", 1, 0, Encoding.COORDINATE8)
    values = struct.pack("<3f", 1.0, 2.0, -3.0)
    index = bytes([0b1010, 0, 69])
    assert data[:32] == header
    assert data[HEADER_BYTES:] == table + values + index


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", DENSITIES)
def test_decode_inverts_encode(density: float, dtype: torch.dtype) -> None:
    layout = Layout.from_sizes(SIZES)
    message = random_update(layout, density, dtype)
    data = encode(message, layout)
    assert_same(decode(data, layout), message)
    assert_same(decode(bytes(data.tolist()), layout), message)


@pytest.mark.parametrize("density", DENSITIES)
def test_messages_about_own_positions(density: float) -> None:
    layout = Layout.from_sizes(SIZES)
    universe = (torch.rand(layout.length) < 0.4) & layout.parameter_mask()
    mask = universe & (torch.rand(layout.length) < density)
    values = torch.randn(int(mask.sum()))
    sums = Message(Kind.SUMS, 1, 2, pack_mask(mask), values, 3, torch.tensor([2, 255, 7], dtype=torch.uint8))
    for message in (sums, Message(Kind.REQUEST, 1, 2, pack_mask(mask))):
        data = encode(message, layout, pack_mask(universe))
        assert_same(decode(data, layout, pack_mask(universe)), message)
    bare = Message(Kind.VALUES, 1, 2, None, values)
    assert_same(decode(encode(bare, layout), layout), bare)
    assert encode(bare, layout).numel() == HEADER_BYTES + 4 * values.numel()


def test_a_request_for_everything_or_nothing_costs_its_table() -> None:
    layout = Layout.from_sizes(SIZES)
    universe = pack_mask((torch.rand(layout.length) < 0.4) & layout.parameter_mask())
    for mask in (universe, torch.zeros_like(universe)):
        assert encode(Message(Kind.REQUEST, 0, 0, mask), layout, universe).numel() == HEADER_BYTES + 4 * 10


@pytest.mark.parametrize("name", VALUE_BYTES)
@pytest.mark.parametrize("size", [1, 100, 16_384, 50_000])
def test_no_message_is_larger_than_any_encoding_guarantees(size: int, name: str) -> None:
    """What the `budget` program plans with is an upper bound, for every tensor and number of values."""
    layout = Layout.from_sizes([size])
    for count in {0, 1, size // 300, size // 20, size // 9, size // 2, size - 1, size}:
        mask = torch.zeros(layout.length, dtype=torch.bool)
        mask[torch.randperm(size)[:count]] = True
        values = torch.randn(count).to(getattr(torch, name))
        weighs = encode(Message(Kind.UPDATE, 0, 0, pack_mask(mask), values), layout).numel() - HEADER_BYTES
        for cost in encoding_costs(size, VALUE_BYTES[name]):
            if cost.encoding is not Encoding.NONE or count == 0:
                assert weighs <= cost.size(count), cost.encoding


def test_8_bit_values_by_hand() -> None:
    """e4m3fn: sign, four bits of exponent with bias 7, three of fraction; e5m2: five with bias 15, and two."""
    layout = Layout.from_sizes([4])
    mask = layout.parameter_mask()
    values = torch.tensor([1.0, -0.5, 0.3, 2.0**-9])
    for dtype, codes, arrived in (
        (torch.float8_e4m3fn, [0x38, 0xB0, 0x2A, 0x01], [1.0, -0.5, 0.3125, 2.0**-9]),
        (torch.float8_e5m2, [0x3C, 0xB8, 0x35, 0x18], [1.0, -0.5, 0.3125, 2.0**-9]),
    ):
        data = encode(Message(Kind.UPDATE, 0, 0, pack_mask(mask), values.to(dtype)), layout)
        assert data[HEADER_BYTES:].tolist() == [4, 0, 0, Encoding.DENSE, *codes]
        read = decode(data, layout).values
        assert read is not None
        assert read.to(torch.float32).tolist() == arrived


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_8_bits_that_are_no_number_are_refused(code: int) -> None:
    values = torch.tensor([code], dtype=torch.uint8).view(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"exchange\.value_dtype=float8_e4m3fn: a value of nan cannot be sent"):
        encode(Message(Kind.VALUES, 0, 0, None, values), Layout.from_sizes([1]))


def test_dense_bytes_is_what_a_dense_message_weighs() -> None:
    layout = Layout.from_sizes(SIZES)
    assert encode(random_update(layout, 1.0), layout).numel() == dense_bytes(layout, 4)
    assert encode(random_update(layout, 1.0, torch.float16), layout).numel() == dense_bytes(layout, 2)


@pytest.mark.parametrize("within", [1.0, 0.99, 0.5, 0.01, 0.0])
def test_an_index_of_a_part_of_the_blocks(within: float) -> None:
    layout = Layout.from_sizes([*SIZES, 100_000])
    grid, parameters = grid_of(layout), layout.parameter_mask()
    for span in (grid.whole, grid.span(2, 6), grid.span(9, 10)):
        for density in DENSITIES:
            universe = parameters & (torch.rand(layout.length) < within)
            mask = span.packed(pack_mask(universe & (torch.rand(layout.length) < density)))
            positions = span.packed(pack_mask(universe))
            encoded = encode_index(mask, positions, span)
            assert sum(encoded.by_encoding.values()) == encoded.table.numel() + encoded.index.numel()
            assert torch.equal(decode_index(encoded.table, encoded.index, positions, span), mask)


def test_every_encoding_is_chosen_somewhere() -> None:
    layout = Layout.from_sizes([16_384] * 6)
    mask = torch.zeros(6, 16_384, dtype=torch.bool)
    mask[1] = True
    mask[2] = torch.rand(16_384) < 0.5
    mask[3] = torch.rand(16_384) < 0.03
    mask[4, [5, 9000]] = True
    mask[5] = torch.rand(16_384) < 0.99
    table = encode(Message(Kind.MASK, 0, 0, pack_mask(mask.flatten())), layout)[HEADER_BYTES:][: 4 * 6]
    assert table.view(6, 4)[:, 3].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", [Kind.MASK, Kind.UPDATE])
def test_every_flipped_bit_is_caught(kind: Kind) -> None:
    layout = Layout.from_sizes([40, 300])
    message = random_update(layout, 0.2)
    if kind is Kind.MASK:
        message = Message(kind, 3, 7, message.mask)
    data = encode(message, layout)
    for bit in range(8 * data.numel()):
        damaged = data.clone()
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(DecodeError):
            decode(damaged, layout)


def test_checksum_of_pieces_and_by_hand() -> None:
    """Sections in pieces, in any order of sections: XXH3 over header and hashes."""
    data = torch.randint(0, 256, (3_000,), dtype=torch.uint8)
    whole, pieces = Channel(Kind.UPDATE, 3, 7), Channel(Kind.UPDATE, 3, 7)
    whole.add(Section.INDEX, data)
    whole.add(Section.VALUES, data[:100])
    pieces.add(Section.INDEX, data[:1001])
    pieces.add(Section.VALUES, data[:100])
    pieces.add(Section.INDEX, data[1001:])
    assert pieces.checksum(b"header") == whole.checksum(b"header") != whole.checksum(b"headed")
    nothing = xxhash.xxh3_64_digest(b"")
    values, index = (xxhash.xxh3_64_digest(part.numpy().tobytes()) for part in (data[:100], data))
    assert whole.checksum(b"header") == xxhash.xxh3_64_intdigest(b"header" + nothing + values + index + nothing)


@pytest.mark.parametrize(
    ("expected", "named"),
    [
        (Channel(Kind.MASK, 3, 7), "kind <Kind.MASK: 1>"),
        (Channel(Kind.VALUES, 4, 7), "client 4; the header announces 3"),
        (Channel(Kind.VALUES, 3, 8), "round 8; the header announces 7"),
        (Channel(Kind.VALUES, 3, 7), "value type <ValueType.NONE: 0>"),
    ],
)
def test_a_message_in_pieces_that_is_not_the_one_waited_for(expected: Channel, named: str) -> None:
    sender = Channel(Kind.VALUES, 3, 7)
    sender.write_values(torch.ones(5), ValueType.FLOAT32)
    with pytest.raises(DecodeError, match=named):
        expected.check(sender.header(340), 340)


@pytest.mark.parametrize(("size", "num_values", "named"), [(340, 4, "value bytes 16"), (341, 5, "parameters 341")])
def test_a_message_in_pieces_of_another_length(size: int, num_values: int, named: str) -> None:
    sender, receiver = Channel(Kind.VALUES, 3, 7), Channel(Kind.VALUES, 3, 7)
    piece = sender.write_values(torch.ones(5), ValueType.FLOAT32)
    receiver.read_values(piece[: 4 * num_values], ValueType.FLOAT32)
    with pytest.raises(DecodeError, match=named):
        receiver.check(sender.header(340), size)


def claim(data: Tensor, **fields: object) -> Tensor:
    """The message with other header fields, and no checksum."""
    header, _ = Header.unpack(bytes(data[:HEADER_BYTES].tolist()))
    changed = Header(**{name: getattr(header, name) for name in Header.__slots__} | fields)  # type: ignore[arg-type]
    return torch.frombuffer(
        bytearray(changed.opening() + bytes(8)) + bytes(data[HEADER_BYTES:].tolist()), dtype=torch.uint8
    )


LAYOUT = Layout.from_sizes([40, 300])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda data: data[:30], "30 bytes are too few"),
        (lambda data: data[:0], "0 bytes are too few"),
        (lambda data: data[:-1], "its header announces"),
        (lambda data: torch.cat([data, data]), "its header announces"),
        (lambda data: data.flip(0), "starts with"),
        (lambda data: data.index_fill(0, torch.tensor(2), 9), "format version 9"),
        (lambda data: data.index_fill(0, torch.tensor(3), 99), "unknown kind of message 99"),
        (lambda data: data.index_fill(0, torch.tensor(4), 8), "unknown value type 8"),
        (lambda data: claim(data, size=341), "speaks of 341 parameters; this layout has 340"),
        (lambda data: claim(data, num_counts=3, count_bytes=0), "3 contributor counts of 0 bytes"),
        (lambda data: claim(data, has_table=False), "index bytes without a block table"),
        (lambda data: claim(data, value_type=ValueType.NONE), "values of no type"),
        (lambda data: claim(data, round=8), "checksum"),
        (lambda data: forge(data, 3, Kind.MASK), "MASK with values of type FLOAT32"),
        (lambda data: forge(data, 40, 0), "an index whose positions do not match its count"),
        (lambda data: forge(data, 43, 6), "block 0: unknown encoding"),
        (lambda data: forge(data, 41, 200), "block 0: more values than positions"),
        (lambda data: forge(data, 42, 1), "block 0: skips in an encoding without skips"),
        (lambda data: forge(data, 43, 1), "block 0: a dense block that is not full"),
        (lambda data: forge(data, 43, 0), "block 0: values without an encoding"),
        (lambda data: forge(data, 43, 4), "index bytes; there are"),
        (lambda data: forge(data, 51, 0x7F, 50, 0x80), "a value is not finite"),
        (lambda data: forge(data, len(data) - 1, 0xFF), "block 1: bits beyond the block"),
    ],
)
def test_a_bad_message_is_named(damage: object, named: str) -> None:
    mask = torch.zeros(LAYOUT.length, dtype=torch.bool)
    mask[:40:5] = True
    mask[64:364:2] = True
    data = encode(Message(Kind.UPDATE, 3, 7, pack_mask(mask), torch.ones(int(mask.sum()))), LAYOUT)
    with pytest.raises(DecodeError, match=named):
        decode(damage(data), LAYOUT)  # type: ignore[operator]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_not_sent(bad: float) -> None:
    values = torch.zeros(LAYOUT.size)
    values[77] = bad
    mask = pack_mask(LAYOUT.parameter_mask())
    for dtype in DTYPES:
        wire = values.to(dtype)
        if bool(wire.to(torch.float32).isfinite().all()):
            continue  # this type has no infinity: `test_value_too_large_for_few_bits` has what is refused on the way there
        with pytest.raises(ValueError, match="cannot be sent"):
            encode(Message(Kind.UPDATE, 0, 0, mask, wire), LAYOUT)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 400_001])
def test_every_value_is_tested_for_being_finite(size: int, dtype: torch.dtype) -> None:
    values = torch.full((size,), torch.finfo(dtype).max)
    values[::2] *= -1
    assert fits(values.to(dtype), dtype)
    for position in {0, size // 2, size - 1}:
        for bad in (float("inf"), -float("inf"), float("nan")):
            broken = values.clone()
            broken[position] = float("nan") if dtype is torch.float8_e4m3fn else bad  # it has no infinity
            assert not fits(broken.to(dtype), dtype)


def test_values_that_do_not_match_the_mask() -> None:
    with pytest.raises(ValueError, match="3 values for a mask of 340 positions"):
        encode(Message(Kind.UPDATE, 0, 0, pack_mask(LAYOUT.parameter_mask()), torch.zeros(3)), LAYOUT)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_with_a_stride_are_sent(dtype: torch.dtype) -> None:
    columns = torch.arange(6.0).view(3, 2)
    for values in (columns[:, 1], columns[:1, 1], torch.zeros(0).as_strided((0,), (0,))):
        message = Message(Kind.VALUES, 0, 0, None, values.to(dtype))
        assert_same(decode(encode(message, LAYOUT), LAYOUT), message)


def test_numbers_that_the_header_cannot_hold() -> None:
    with pytest.raises(ValueError, match="a message cannot say"):
        encode(Message(Kind.MASK, 2**32, 0, pack_mask(LAYOUT.parameter_mask())), LAYOUT)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_decode_or_raise_decode_error(data: bytes, plausible: bool) -> None:
    if plausible:
        data = b"FP\x02" + data
    try:
        decode(data, LAYOUT)
    except DecodeError:
        pass
    else:
        pytest.fail("random bytes passed the checksum")


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_forged_messages_decode_or_raise_decode_error(data: st.DataObject) -> None:
    """With lengths and checksum made to fit, everything behind them is reached."""
    density = data.draw(st.sampled_from([0.01, 0.1, 0.5, 0.97]))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    message = encode(random_update(LAYOUT, density), LAYOUT)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, message.numel() - 1))
        message = forge(message, at, data.draw(st.integers(0, 255)))
    try:
        decoded = decode(message, LAYOUT)
    except DecodeError:
        return
    if decoded.mask is not None and decoded.values is not None:
        assert int(unpack_mask(decoded.mask).sum()) == decoded.values.numel()
