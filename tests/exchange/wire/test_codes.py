"""Codes below 16 bits: bytes by hand, cost, unbiased rounding, inverses, and only one kind of error from any bytes."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedpurin.exchange.wire.codes import Code, Stochastic, Ternary
from fedpurin.exchange.wire.header import DecodeError, Kind
from fedpurin.exchange.wire.message import Message, decode, encode
from fedpurin.space import Layout, pack_mask
from tests.exchange.fuzz import LAYOUT, check, forge

CODES: list[Code] = [*(Stochastic(bits, 16, norm) for bits in (1, 2, 4, 8) for norm in ("max", "l2")), Ternary()]  # type: ignore[arg-type]


def of_bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def test_four_bits_by_hand() -> None:
    """Norm 7, seven levels: whole numbers are exact whatever is drawn; the sign is bit 3, two values a byte."""
    values = torch.tensor([7.0, -3.0, 0.0, 1.0, -7.0])
    data = Stochastic(4).encode(values, torch.Generator().manual_seed(1))
    assert bytes(data.tolist()) == struct.pack("<f", 7.0) + bytes([0xB7, 0x10, 0x0F])
    assert Stochastic(4).decode(data, 5).tolist() == values.tolist()


def test_one_bit_and_three_values_by_hand() -> None:
    data = Stochastic(1).encode(torch.tensor([2.0, -2.0, 2.0]), torch.Generator())
    assert bytes(data.tolist()) == struct.pack("<f", 2.0) + bytes([0b101])
    data = Ternary().encode(torch.tensor([1.0, -3.0, 5.0]))
    assert bytes(data.tolist()) == struct.pack("<f", 3.0) + bytes([0b101])
    assert Ternary().decode(data, 3).tolist() == [3.0, -3.0, 3.0]


def test_the_norm_of_qsgd_by_hand() -> None:
    """‖(3, 4)‖ = 5: shares 0.6 and 0.8 of one level, so each value becomes 0 or 5."""
    code, generator = Stochastic(2, 512, "l2"), torch.Generator().manual_seed(3)
    drawn = torch.stack([code.decode(code.encode(torch.tensor([3.0, 4.0]), generator), 2) for _ in range(2000)])
    assert set(drawn.flatten().tolist()) == {0.0, 5.0}
    assert drawn.mean(0).tolist() == pytest.approx([3.0, 4.0], abs=0.2)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_rounding_is_unbiased(bits: int) -> None:
    code, generator = Stochastic(bits), torch.Generator().manual_seed(bits)  # type: ignore[arg-type]
    values = torch.tensor([1.0, -0.35, 0.05, 0.8])
    mean = torch.stack([code.decode(code.encode(values, generator), 4) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, values, rtol=0, atol=0.06)


@pytest.mark.parametrize("code", CODES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 7, 16, 17, 300])
def test_cost_is_length_and_errors_stay_within_a_level(code: Code, count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(count))
    data = code.encode(values, torch.Generator())
    assert data.numel() == code.cost(count)
    decoded = code.decode(data, count)
    assert decoded.shape == values.shape
    if isinstance(code, Stochastic) and code.bits > 1 and code.norm == "max" and count:
        assert (decoded - values).abs().max() <= values.abs().max() / code.levels + 1e-6


def test_zeros_stay_zeros_and_infinities_are_refused() -> None:
    for code in (Stochastic(8), Stochastic(4), Stochastic(2)):
        assert not code.decode(code.encode(torch.zeros(5), torch.Generator()), 5).any()
    for code in CODES:
        with pytest.raises(ValueError, match="not finite"):
            code.encode(torch.tensor([1.0, float("inf")]), torch.Generator())


@pytest.mark.parametrize(
    ("code", "data", "what"),
    [
        (Stochastic(8), bytes(5), "9 bytes|5 bytes"),
        (Stochastic(4), struct.pack("<f", -1.0) + bytes(2), "negative"),
        (Stochastic(4), struct.pack("<f", float("nan")) + bytes(2), "not finite"),
        (Stochastic(4), struct.pack("<f", 1.0) + bytes([0, 0x10]), "behind the last value"),
        (Stochastic(4), struct.pack("<f", 1.0) + bytes([0x08, 0]), "minus zero"),
        (Ternary(), struct.pack("<f", 1.0) + bytes([0b1000]), "behind the last value"),
    ],
)
def test_bad_bytes_are_named(code: Code, data: bytes, what: str) -> None:
    with pytest.raises(DecodeError, match=what):
        code.decode(of_bytes(data), 3)


@pytest.mark.parametrize("code", CODES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.05, 1.0])
def test_a_coded_message(code: Code, density: float) -> None:
    layout = Layout.from_sizes([7, 20_000])
    mask = (torch.rand(layout.length) < density) & layout.parameter_mask()
    coded = code.encode(torch.randn(int(mask.sum())), torch.Generator())
    data = encode(Message(Kind.UPDATE, 3, 7, pack_mask(mask), coded), layout)
    found = decode(data, layout, code=code)
    assert found.mask is not None
    assert found.values is not None
    assert torch.equal(found.mask, pack_mask(mask))
    assert torch.equal(found.values, code.decode(coded, int(mask.sum())))
    with pytest.raises(DecodeError, match="no code is known"):
        decode(data, layout)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.sampled_from(CODES))
@settings(max_examples=150, deadline=None)
def test_any_damage_decodes_or_is_a_decode_error(changes: list[tuple[int, int]], code: Code) -> None:
    mask = LAYOUT.parameter_mask() & (torch.arange(LAYOUT.length) % 3 == 0)
    coded = code.encode(torch.linspace(-1, 1, int(mask.sum())), torch.Generator())
    data = encode(Message(Kind.UPDATE, 1, 2, pack_mask(mask), coded), LAYOUT)
    forged = forge(data, *(number for at, byte in changes for number in (at % data.numel(), byte)))
    check(bytes(forged.tolist()), None, code)
