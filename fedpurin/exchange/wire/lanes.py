"""Moving values between a vector and the set bits of a word: the innermost step of everything sparse on the CPU.

Owns: 64 positions at a time, `compress_word` and `spread_word`, without branches: each mask bit is added to a read or
write position instead of being tested, since a test on random bits is mispredicted every other time. Counts are
unsigned: numba tests signed indices for negative ones. `popcount` is what `np.bitwise_count` is outside of compiled
code: numba 0.68 does not know that function.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from fedpurin.compiled import njit

_ONE = np.uint64(1)
_BITS = np.uint64(64)


@intrinsic
def popcount(typing_context: Any, word: Any) -> Any:
    """The number of set bits of a 64-bit word, one machine instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@njit()
def compress_word(source, base, word, target, filled, size):  # type: ignore[no-untyped-def]
    """Append the elements of one word's positions; returns how many are filled now. Writes nothing from `size` on."""
    if word == 0:
        return filled
    if filled + _BITS < size:
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
    if read + _BITS < size:
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
