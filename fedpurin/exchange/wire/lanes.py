"""Moving values between a vector and the set bits of a word: the innermost step of everything sparse on the CPU.

Owns: 64 positions at a time, `compress_word`, `spread_word` and `unpack_word`. The first two come in two ways that move
the same bit patterns. With AVX-512 the processor gathers or spreads sixteen values in one instruction. Elsewhere a
loop without branches adds each mask bit to a read or write position instead of testing it, since a test on random
bits is mispredicted every other time. Counts are unsigned: numba tests signed indices for negative ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import config, types
from numba.extending import intrinsic

from fedpurin.compiled import njit

_FEATURES = binding.get_host_cpu_features()
HAS_AVX512 = bool(_FEATURES.get("avx512f")) and not config.CPU_NAME and config.CPU_FEATURES is None
_ONE = np.uint64(1)
_BITS = np.uint64(64)
_HALF_WORDS = 16
_VECTOR = ir.VectorType(ir.IntType(32), _HALF_WORDS)
_LANES = ir.VectorType(ir.IntType(1), _HALF_WORDS)


@intrinsic
def popcount(typing_context: Any, word: Any) -> Any:
    """The number of set bits of a 64-bit word, one machine instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


@intrinsic
def _compress16(typing_context: Any, source: Any, base: Any, bits: Any, target: Any, filled: Any) -> Any:
    """Write the chosen ones of `source[base:base + 16]` to `target[filled:]`; what follows them is overwritten."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source_type, _, _, target_type, _ = signature.args
        read = _address(context, builder, source_type, arguments[0], arguments[1])
        values = builder.load(builder.bitcast(read, _VECTOR.as_pointer()), align=4)
        chosen = builder.bitcast(arguments[2], _LANES)
        shape = ir.FunctionType(_VECTOR, [_VECTOR, _VECTOR, _LANES])
        gather = builder.module.declare_intrinsic("llvm.x86.avx512.mask.compress.v16i32", (), shape)
        packed = builder.call(gather, [values, ir.Constant(_VECTOR, None), chosen])
        write = _address(context, builder, target_type, arguments[3], arguments[4])
        builder.store(packed, builder.bitcast(write, _VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(source, types.uint64, types.uint16, target, types.uint64), generate


@intrinsic
def _expand16(typing_context: Any, source: Any, read: Any, bits: Any, target: Any, base: Any) -> Any:
    """Spread `source[read:]` over the chosen ones of `target[base:base + 16]`; the others become zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source_type, _, _, target_type, _ = signature.args
        begin = _address(context, builder, source_type, arguments[0], arguments[1])
        chosen = builder.bitcast(arguments[2], _LANES)
        shape = ir.FunctionType(_VECTOR, [ir.IntType(32).as_pointer(), _LANES, _VECTOR])
        spread = builder.module.declare_intrinsic("llvm.masked.expandload.v16i32", (), shape)
        values = builder.call(spread, [begin, chosen, ir.Constant(_VECTOR, None)])
        write = _address(context, builder, target_type, arguments[3], arguments[4])
        builder.store(values, builder.bitcast(write, _VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(source, types.uint64, types.uint16, target, types.uint64), generate


@intrinsic
def unpack_word(typing_context: Any, word: Any, target: Any, base: Any) -> Any:
    """Write a word's bits as 64 bytes, 0 or 1, to `target[base:base + 64]`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], ir.VectorType(ir.IntType(1), 64))
        as_bytes = builder.zext(bits, ir.VectorType(ir.IntType(8), 64))
        write = _address(context, builder, signature.args[1], arguments[1], arguments[2])
        builder.store(as_bytes, builder.bitcast(write, as_bytes.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, target, types.uint64), generate


@njit()
def compress_word(source, base, word, target, filled, size):  # type: ignore[no-untyped-def]
    """Append the elements of one word's positions; returns how many are filled now. Writes nothing from `size` on."""
    if word == 0:
        return filled
    if filled + _BITS < size:
        if HAS_AVX512:
            for part in range(4):
                shift = np.uint64(_HALF_WORDS * part)
                bits = np.uint16((word >> shift) & np.uint64(0xFFFF))
                _compress16(source, base + shift, bits, target, filled)
                filled += popcount(np.uint64(bits))
        else:
            for bit in range(_BITS):
                target[filled] = source[base + np.uint64(bit)]
                filled += word & _ONE
                word >>= _ONE
    else:
        for bit in range(_BITS):
            if word & _ONE:
                target[filled] = source[base + np.uint64(bit)]
                filled += _ONE
            word >>= _ONE
    return filled


@njit()
def spread_word(source, read, size, word, target, base):  # type: ignore[no-untyped-def]
    """Put the next values of `source` at one word's positions from `target[base]` on, zeros at the others.

    Returns the next place to read; there is nothing to read from `size` on.
    """
    if HAS_AVX512:
        for part in range(4):
            shift = np.uint64(_HALF_WORDS * part)
            bits = np.uint16((word >> shift) & np.uint64(0xFFFF))
            _expand16(source, read, bits, target, base + shift)
            read += popcount(np.uint64(bits))
    elif read + _BITS < size:
        left = word
        for bit in range(_BITS):
            target[base + bit] = source[read]
            read += left & _ONE
            left >>= _ONE
        for bit in range(_BITS):
            target[base + bit] &= np.uint32(np.uint64(0) - ((word >> bit) & _ONE))
    else:
        for bit in range(_BITS):
            target[base + bit] = 0
            if (word >> bit) & _ONE:
                target[base + bit] = source[read]
                read += _ONE
    return read
