"""The sums of `sums.py`, compiled for the CPU; see there for what each function promises.

A thread takes a chunk of the bucket and goes through it tile by tile. In a tile every row's values are spread out
once, into a scratch area that stays in the cache; then each result adds up its rows there. Values are
therefore read once from memory, however many clients use them, and no row is ever spread out as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.compiled import njit
from fedpurin.exchange.groups import Groups
from fedpurin.exchange.wire.bits import FULL_WORD, count_words, words_of
from fedpurin.exchange.wire.lanes import compress_word, popcount, spread_word
from fedpurin.parallel import map_chunks

TILE_WORDS = 8
"""512 positions, 2 KiB a row: twenty rows and their bits stay within a second-level cache, near the first."""
_SUM_CHUNK_WORDS = 1024
_ONE = np.uint64(1)
_BITS = np.uint64(64)


def unions(masks: Tensor, groups: Groups, within: Sequence[int]) -> Tensor:
    words = _rows(masks)
    result = np.zeros((len(within), words.shape[1]), dtype=np.uint64)
    rows = np.asarray(within, dtype=np.int64)
    map_chunks(
        lambda first, last: _unions(words[:, first:last], rows, groups.edges, groups.flat, result[:, first:last]),
        words.shape[1],
        _SUM_CHUNK_WORDS,
    )
    return torch.from_numpy(result.view(np.uint8))


@njit()
def _unions(
    words: NDArray[np.uint64],
    within: NDArray[np.int64],
    edges: NDArray[np.int64],
    members: NDArray[np.int64],
    result: NDArray[np.uint64],
) -> None:
    for k in range(within.size):
        for member in range(edges[k], edges[k + 1]):
            row = members[member]
            for index in range(words.shape[1]):
                result[k, index] |= words[row, index]
        for index in range(words.shape[1]):
            result[k, index] &= words[within[k], index]


def sums(
    sent: Tensor,
    values: Tensor,
    groups: Groups,
    own: Sequence[int],
    at: Tensor,
    finished: Tensor,
    divisors: Sequence[int] | None,
    out: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    rows, places, done = _rows(sent), _rows(at), _rows(finished)
    starts, begins = _starts(rows), _starts(places)
    unfinished = _starts(places & ~done if divisors is None else places[:, :0])
    num_sums = int(begins[-1, -1])
    result = torch.empty(num_sums, dtype=torch.float32) if out is None else out[:num_sums]
    counts = torch.empty(int(unfinished[-1, -1]), dtype=torch.int16)
    fixed = np.asarray(divisors if divisors is not None else [0] * len(own), dtype=np.float32)
    own_rows = np.asarray(own, dtype=np.int64)
    data = values.numpy()

    def run(first: int, last: int) -> None:
        chunk = first // _SUM_CHUNK_WORDS
        _sum_chunk(
            rows[:, first:last],
            data.view(np.uint32),
            starts[:-1, chunk].copy(),
            groups.edges,
            groups.flat,
            own_rows,
            places[:, first:last],
            done[:, first:last],
            fixed,
            result.numpy().view(np.uint32),
            begins[:-1, chunk].copy(),
            begins[:-1, chunk + 1],
            counts.numpy(),
            unfinished[:-1, chunk if divisors is None else 0].copy(),
            divisors is None,
        )

    map_chunks(run, rows.shape[1], _SUM_CHUNK_WORDS)
    return _split(result, begins), _split(counts, unfinished)


@njit(error_model="numpy")  # else every division tests for zero
def _sum_chunk(
    sent: NDArray[np.uint64],
    values: NDArray[np.uint32],
    cursors: NDArray[np.uint64],
    edges: NDArray[np.int64],
    members: NDArray[np.int64],
    own: NDArray[np.int64],
    at: NDArray[np.uint64],
    finished: NDArray[np.uint64],
    divisors: NDArray[np.float32],
    result: NDArray[np.uint32],
    fills: NDArray[np.uint64],
    ends: NDArray[np.uint64],
    counts: NDArray[np.int16],
    count_fills: NDArray[np.uint64],
    counting: bool,
) -> None:
    """One chunk of words for every result. `cursors`, `fills` and `count_fills` are where it reads and writes next."""
    num_rows, width = sent.shape
    rows = np.empty((num_rows, 64 * TILE_WORDS), dtype=np.float32)
    patterns = rows.view(np.uint32)
    bits = np.empty((num_rows if counting else 0, 64 * TILE_WORDS), dtype=np.uint8)
    total = np.empty(64 * TILE_WORDS, dtype=np.float32)
    total_patterns = total.view(np.uint32)
    number = np.ones(64 * TILE_WORDS, dtype=np.uint16)
    size = np.uint64(values.size)
    by = np.empty(64 * TILE_WORDS, dtype=np.float32)
    by_patterns = by.view(np.uint32)
    for first in range(0, width, TILE_WORDS):
        num_words = min(TILE_WORDS, width - first)
        for row in range(num_rows):
            spread = patterns[row]
            for index in range(num_words):
                word, base = sent[row, first + index], _BITS * np.uint64(index)
                cursors[row] = spread_word(values, cursors[row], size, word, spread, base)
                if counting:
                    for bit in range(_BITS):
                        bits[row, base + bit] = np.uint8((word >> bit) & _ONE)
        for k in range(own.size):
            any_at, any_done, all_done = np.uint64(0), np.uint64(0), True
            for index in range(num_words):
                word, done = at[k, first + index], finished[k, first + index]
                any_at |= word
                any_done |= done
                all_done &= word & ~done == 0
            if not any_at:
                continue
            _sum_tile(rows, edges[k], edges[k + 1], members, total)
            if counting:
                _count_tile(bits, edges[k], edges[k + 1], members, number)
            if any_done:
                if counting:
                    by[:] = number
                else:
                    by[:] = divisors[k]
                mine = rows[own[k]]
                for q in range(total.size):
                    by[q] = (total[q] + mine[q]) / by[q]
            for index in range(num_words if any_done and not all_done else 0):
                base, done = _BITS * np.uint64(index), finished[k, first + index]
                for bit in range(_BITS):  # bit patterns: a choice between floats becomes a branch
                    keep = np.uint32(((done >> bit) & _ONE) - _ONE)
                    total_patterns[base + bit] = (by_patterns[base + bit] & ~keep) | (total_patterns[base + bit] & keep)
            outcome = by_patterns if all_done else total_patterns
            for index in range(num_words):
                base = _BITS * np.uint64(index)
                word, done = at[k, first + index], finished[k, first + index]
                fills[k] = compress_word(outcome, base, word, result, fills[k], ends[k])
                if counting:
                    left = word & ~done
                    while left:
                        bit = popcount((left & (~left + _ONE)) - _ONE)
                        counts[count_fills[k]] = np.int16(number[base + bit])
                        count_fills[k] += _ONE
                        left &= left - _ONE


@njit()
def _sum_tile(
    rows: NDArray[np.float32], begin: int, end: int, members: NDArray[np.int64], total: NDArray[np.float32]
) -> None:
    """Four rows a pass: a sum is loaded and stored a fourth as often, and still added to in order."""
    total[:] = np.float32(0)
    while end - begin >= 4:
        a, b = rows[members[begin]], rows[members[begin + 1]]
        c, d = rows[members[begin + 2]], rows[members[begin + 3]]
        for q in range(total.size):
            total[q] = (((total[q] + a[q]) + b[q]) + c[q]) + d[q]
        begin += 4
    for member in range(begin, end):
        a = rows[members[member]]
        for q in range(total.size):
            total[q] += a[q]


@njit()
def _count_tile(
    bits: NDArray[np.uint8], begin: int, end: int, members: NDArray[np.int64], number: NDArray[np.uint16]
) -> None:
    number[:] = np.uint16(1)
    while end - begin >= 4:
        a, b = bits[members[begin]], bits[members[begin + 1]]
        c, d = bits[members[begin + 2]], bits[members[begin + 3]]
        for q in range(number.size):
            number[q] += np.uint16(a[q]) + np.uint16(b[q]) + np.uint16(c[q]) + np.uint16(d[q])
        begin += 4
    for member in range(begin, end):
        a = bits[members[member]]
        for q in range(number.size):
            number[q] += np.uint16(a[q])


def weighted(sent: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    rows = _rows(sent)
    starts, data, factors = _starts(rows), values.numpy(), weights.numpy()
    total = np.zeros(64 * rows.shape[1], dtype=np.float32)

    def run(first: int, last: int) -> None:
        cursors = starts[:-1, first // _SUM_CHUNK_WORDS].copy()
        _weighted_chunk(rows[:, first:last], data.view(np.uint32), cursors, factors, total[64 * first : 64 * last])

    map_chunks(run, rows.shape[1], _SUM_CHUNK_WORDS)
    return torch.from_numpy(total)


@njit()
def _weighted_chunk(
    sent: NDArray[np.uint64],
    values: NDArray[np.uint32],
    cursors: NDArray[np.uint64],
    weights: NDArray[np.float32],
    total: NDArray[np.float32],
) -> None:
    lane = np.empty(64, dtype=np.uint32)
    spread, size, numbers = lane.view(np.float32), np.uint64(values.size), values.view(np.float32)
    for index in range(sent.shape[1]):
        base = _BITS * np.uint64(index)
        for row in range(sent.shape[0]):
            word, begin = sent[row, index], cursors[row]
            if word == FULL_WORD and begin + _BITS <= size:
                for bit in range(_BITS):
                    product = numbers[begin + bit] * weights[row]
                    total[base + bit] += product
                cursors[row] += _BITS
                continue
            cursors[row] = spread_word(values, begin, size, word, lane, np.uint64(0))
            for bit in range(_BITS):
                product = spread[bit] * weights[row]
                total[base + bit] += product


def merge_own(
    part: Tensor,
    mask: Tensor,
    at: Tensor,
    finished: Tensor,
    values: Tensor,
    divisor: int | None,
    counts: Tensor,
) -> None:
    fixed = np.float32(divisor or 0)
    places = words_of(at)
    if int(count_words(places)) != values.numel():
        raise ValueError(f"{values.numel()} values for a mask of {count_words(places)} positions")
    _merge_own(
        part.numpy(), words_of(mask), places, words_of(finished), values.numpy().view(np.uint32), fixed, counts.numpy()
    )


@njit(error_model="numpy")  # else every division tests for zero
def _merge_own(
    part: NDArray[np.float32],
    mask: NDArray[np.uint64],
    at: NDArray[np.uint64],
    finished: NDArray[np.uint64],
    values: NDArray[np.uint32],
    divisor: np.float32,
    counts: NDArray[np.int16],
) -> None:
    lane = np.zeros(64, dtype=np.uint32)
    received = lane.view(np.float32)
    merged = np.empty(64, dtype=np.float32)
    patterns, target = merged.view(np.uint32), part.view(np.uint32)
    by = np.empty(64, dtype=np.float32)
    read, size, counted = np.uint64(0), np.uint64(values.size), np.uint64(0)
    for index in range(mask.size):
        critical, word, done = mask[index], at[index], finished[index]
        if critical == 0:
            continue
        read = spread_word(values, read, size, word, lane, np.uint64(0))
        base = _BITS * np.uint64(index)
        if word == critical and done == critical:
            for bit in range(_BITS):
                keep = np.uint32(((word >> bit) & _ONE) - _ONE)
                target[base + bit] = (lane[bit] & ~keep) | (target[base + bit] & keep)
            continue
        by[:] = divisor if divisor else np.float32(1)
        left = np.uint64(0) if divisor else word & ~done
        while left:
            by[popcount((left & (~left + _ONE)) - _ONE)] = np.float32(counts[counted])
            counted += _ONE
            left &= left - _ONE
        for bit in range(_BITS):
            merged[bit] = (received[bit] + part[base + bit]) / by[bit]
        for bit in range(_BITS):
            keep = np.uint32(((done >> bit) & _ONE) - _ONE)
            lane[bit] = (lane[bit] & ~keep) | (patterns[bit] & keep)
            keep = np.uint32(((critical >> bit) & _ONE) - _ONE)
            target[base + bit] = (lane[bit] & ~keep) | (target[base + bit] & keep)


def _rows(packed: Tensor) -> NDArray[np.uint64]:
    return words_of(packed.reshape(-1)).reshape(len(packed), packed.shape[1] // 8)


def _starts(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Set bits before each chunk of each row, counted through all rows; the last row holds where all end.

    Shape [rows + 1, chunks + 1]: entry [r, c] is where row r's chunk c begins, [r, −1] where row r ends.
    """
    chunks = -(-rows.shape[1] // _SUM_CHUNK_WORDS)
    counts = np.zeros((len(rows), chunks), dtype=np.int64)
    _count_chunks(rows, _SUM_CHUNK_WORDS, counts)
    ends = np.cumsum(counts.reshape(-1)).reshape(counts.shape)
    starts = np.zeros((len(rows) + 1, chunks + 1), dtype=np.uint64)
    totals = counts.sum(axis=1)
    starts[:-1, 0] = np.cumsum(totals) - totals
    starts[:-1, 1:] = ends
    starts[-1, :] = totals.sum()
    return starts


@njit()
def _count_chunks(rows: NDArray[np.uint64], chunk_words: int, counts: NDArray[np.int64]) -> None:
    for row in range(counts.shape[0]):
        for chunk in range(counts.shape[1]):
            counts[row, chunk] = count_words(rows[row, chunk * chunk_words : (chunk + 1) * chunk_words])


def _split(values: Tensor, starts: NDArray[np.uint64]) -> list[Tensor]:
    sizes = np.diff(starts[:, 0].astype(np.int64)).tolist()
    return list(torch.split_with_sizes(values, sizes))
