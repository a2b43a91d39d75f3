"""Values below 16 bits: codes that turn a message's values into bytes and back. One object each: cost, encode, decode.

`Stochastic` is QSGD's quantiser (Alistarh et al., NeurIPS 2017, arXiv 1610.02132, section 3.1), used by FedPAQ: with
s = 2^(b−1) − 1 levels, a value v of a bucket of norm N becomes sign(v)·N·ℓ/s, where ℓ is one of the two integers next
to s·|v|/N, chosen at random such that the expectation is v. With one bit it is ±N, +N with probability (1 + v/N)/2
(Suresh et al., ICML 2017, arXiv 1611.00429, section 2, with a range that is symmetric around zero). The levels are
written with a fixed number of bits, not with QSGD's Elias code.

`Ternary` writes values that all have one magnitude (STC, Sattler et al., arXiv 1903.02891): that, and a bit a sign.

Owns: bytes of values. Does not own: which positions they belong to (`index.py`), who knows the code: both sides do,
by the method's options, as they know a message's universe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from fedpurin.exchange.wire.header import DecodeError

SCALE_BYTES = 4


@runtime_checkable
class Code(Protocol):
    """How values travel in fewer than 16 bits each."""

    def cost(self, count: int) -> int:
        """Bytes of `count` values."""
        ...

    def encode(
        self, values: Float32[Tensor, " values"], generator: torch.Generator | None = None
    ) -> UInt8[Tensor, " bytes"]:
        """The values' bytes. Rounding draws from `generator`, a CPU generator, where it is random."""
        ...

    def decode(self, data: UInt8[Tensor, " bytes"], count: int) -> Float32[Tensor, " values"]:
        """The inverse of `encode`, up to its rounding; raises DecodeError for what `encode` does not write."""
        ...


@dataclass(frozen=True)
class Stochastic:
    """Unbiased rounding to `bits` a value and a float32 norm for every `bucket` values."""

    bits: Literal[1, 2, 4, 8] = 8
    bucket: int = 512
    norm: Literal["l2", "max"] = "max"

    @property
    def levels(self) -> int:
        """s, the number of levels above zero."""
        return max(1, (1 << (self.bits - 1)) - 1)

    def cost(self, count: int) -> int:
        return SCALE_BYTES * -(-count // self.bucket) + -(-count * self.bits // 8)

    def encode(
        self, values: Float32[Tensor, " values"], generator: torch.Generator | None = None
    ) -> UInt8[Tensor, " bytes"]:
        rows = torch.nn.functional.pad(values, (0, -len(values) % self.bucket)).view(-1, self.bucket)
        scale = rows.abs().amax(1) if self.norm == "max" else rows.norm(dim=1)
        _require_finite(scale)
        share = (rows / torch.where(scale > 0, scale, 1.0).unsqueeze(1)).clamp(-1, 1).view(-1)[: len(values)]
        draw = torch.rand(len(values), generator=generator).to(values.device)
        if self.bits == 1:
            codes = (2 * draw < 1 + share).to(torch.uint8)
        else:
            exact = share.abs() * self.levels
            level = (exact.floor() + (draw < exact - exact.floor())).to(torch.uint8)
            codes = level | ((share < 0) & (level > 0)).to(torch.uint8) << (self.bits - 1)
        return torch.cat([scale.view(torch.uint8), _pack(codes, self.bits)])

    def decode(self, data: UInt8[Tensor, " bytes"], count: int) -> Float32[Tensor, " values"]:
        _require_length(data, self.cost(count), count)
        num_scales = -(-count // self.bucket)
        scale = data[: SCALE_BYTES * num_scales].clone().view(torch.float32)
        _require_scale(scale)
        codes = _unpack(data[SCALE_BYTES * num_scales :], self.bits, count)
        if self.bits == 1:
            share = 2.0 * codes - 1.0
        else:
            sign = codes >> (self.bits - 1)
            level = codes & (2 ** (self.bits - 1) - 1)
            if bool(((sign == 1) & (level == 0)).any()):
                raise DecodeError("a code is minus zero")
            share = (1.0 - 2.0 * sign) * level / self.levels
        values: Tensor = share.to(torch.float32) * scale.repeat_interleave(self.bucket)[:count]
        return values


@dataclass(frozen=True)
class Ternary:
    """One magnitude, the mean of all, and a sign each: with the zeros that are not sent, STC's three values."""

    def cost(self, count: int) -> int:
        return SCALE_BYTES * (count > 0) + -(-count // 8)

    def encode(
        self, values: Float32[Tensor, " values"], generator: torch.Generator | None = None
    ) -> UInt8[Tensor, " bytes"]:
        scale = values.abs().mean(0, keepdim=True)[: len(values)]
        _require_finite(scale)
        return torch.cat([scale.view(torch.uint8), _pack((values >= 0).to(torch.uint8), 1)])

    def decode(self, data: UInt8[Tensor, " bytes"], count: int) -> Float32[Tensor, " values"]:
        _require_length(data, self.cost(count), count)
        if not count:
            return torch.empty(0, dtype=torch.float32, device=data.device)
        scale = data[:SCALE_BYTES].clone().view(torch.float32)
        _require_scale(scale)
        values: Tensor = (2.0 * _unpack(data[SCALE_BYTES:], 1, count) - 1.0).to(torch.float32) * scale
        return values


def _require_finite(scale: Tensor) -> None:
    if not bool(torch.isfinite(scale).all()):
        raise ValueError("a value that is not finite, or too large to sum, cannot be quantised")


def _require_length(data: Tensor, expected: int, count: int) -> None:
    if data.numel() != expected:
        raise DecodeError(f"{data.numel()} bytes of codes; {count} values take {expected}")


def _require_scale(scale: Tensor) -> None:
    if not bool((torch.isfinite(scale) & ~torch.signbit(scale)).all()):
        raise DecodeError("a scale is negative or not finite")


def _pack(codes: UInt8[Tensor, " values"], bits: int) -> UInt8[Tensor, " bytes"]:
    """Codes of `bits` bits, the first in the lowest bits of its byte."""
    per_byte = 8 // bits
    rows = torch.nn.functional.pad(codes, (0, -len(codes) % per_byte)).view(-1, per_byte)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=codes.device)
    packed: Tensor = (rows << shifts).sum(1, dtype=torch.uint8)
    return packed


def _unpack(data: UInt8[Tensor, " bytes"], bits: int, count: int) -> UInt8[Tensor, " values"]:
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=data.device)
    codes: Tensor = ((data.unsqueeze(1) >> shifts) & (2**bits - 1)).view(-1)
    if bool(codes[count:].any()):
        raise DecodeError("codes behind the last value are not zero")
    return codes[:count]
