"""A block's compact form: one bit for each position of its universe, back to back.

Owns: moving a packed mask's bits into that form and back. Where the universe is everything that is a copy; where it is a
client's own mask, each byte goes through a table (PEXT: the bits of one byte that another byte selects, moved together;
PDEP is its inverse). Does not own: what is written of it (`index.py`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedpurin.compiled import njit
from fedpurin.exchange.wire.bits import FULL_WORD
from fedpurin.exchange.wire.lanes import popcount

_ONE = np.uint64(1)
_BITS = np.uint64(64)


def _byte_tables() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    pext = np.zeros((256, 256), dtype=np.uint8)
    pdep = np.zeros((256, 256), dtype=np.uint8)
    values = np.arange(256)
    for selector in range(256):
        for rank, bit in enumerate(bit for bit in range(8) if selector >> bit & 1):
            pext[selector] |= ((values >> bit & 1) << rank).astype(np.uint8)
            pdep[selector] |= ((values >> rank & 1) << bit).astype(np.uint8)
    return pext, pdep


PEXT, PDEP = _byte_tables()


@njit()
def gather_bits(
    words: NDArray[np.uint64], universe: NDArray[np.uint64], pext: NDArray[np.uint8], compact: NDArray[np.uint64]
) -> None:
    """A block's bits at the universe's positions, back to back; zero behind the last one."""
    compact[:] = np.uint64(0)
    at = np.uint64(0)
    for index in range(words.size):
        within = universe[index]
        if within == 0:
            continue
        moved = words[index]
        if within != FULL_WORD:
            moved = np.uint64(0)
            filled = np.uint64(0)
            for byte in range(8):
                shift = np.uint64(8 * byte)
                selector = (within >> shift) & np.uint64(255)
                moved |= np.uint64(pext[selector, (words[index] >> shift) & np.uint64(255)]) << filled
                filled += popcount(selector)
        place, shift = at // _BITS, at % _BITS
        compact[place] |= moved << shift
        if shift:
            compact[place + _ONE] |= moved >> (_BITS - shift)
        at += popcount(within)


@njit()
def spread_bits(
    compact: NDArray[np.uint64], universe: NDArray[np.uint64], pdep: NDArray[np.uint8], words: NDArray[np.uint64]
) -> None:
    """The inverse of `gather_bits`."""
    at = np.uint64(0)
    for index in range(words.size):
        within = universe[index]
        place, shift = at // _BITS, at % _BITS
        moved = compact[place] >> shift
        if shift:
            moved |= compact[place + _ONE] << (_BITS - shift)
        if within == FULL_WORD:
            words[index] = moved
        else:
            spread = np.uint64(0)
            for byte in range(8):
                position = np.uint64(8 * byte)
                selector = (within >> position) & np.uint64(255)
                spread |= np.uint64(pdep[selector, moved & np.uint64(255)]) << position
                moved >>= popcount(selector)
            words[index] = spread
        at += popcount(within)
