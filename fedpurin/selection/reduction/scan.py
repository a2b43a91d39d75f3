"""Passes over the scores: the only code of the selection that touches every parameter.

Owns how scores are counted, split and turned into a mask, on a CPU (`CpuScan`: numba kernels on threads) and on
any other device (`TorchScan`). Both give the same integers, so what is built on them is the same bit for bit. Knows
tensors and thresholds, and nothing of programs.

Scores are read three times: for the histogram, for the bins around the margin, and for the mask. Small tensors are
sorted instead, which makes their curves exact at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor

from fedpurin.parallel import iterate_items, map_items
from fedpurin.selection.reduction import kernels
from fedpurin.selection.reduction.curve import Integers, ValueCurve, bins_of, curve_of_bin
from fedpurin.space import Layout, Segment, pack_mask

SORTED_SIZE = 8_192  # elements: up to here sorting a tensor is cheaper than a histogram and its second look
_FIRST_INVALID_BIN = 0x7F80  # the bins from here on hold infinity, NaN and everything with a sign
_ROWS = 16  # bins split in one pass: 256 KiB of counts each


@dataclass(frozen=True, slots=True)
class Threshold:
    """Which scores of a tensor are selected: those above `score`, and the first `num_ties` that equal it."""

    score: float
    num_ties: int
    num_equal: int


class Scan(ABC):
    """The scores of one solve, seen tensor by tensor."""

    def __init__(self, layout: Layout, scores: Float32[Tensor, " length"]) -> None:
        self.layout = layout
        self.scores = scores

    def curves(self) -> list[ValueCurve]:
        """The value curve of every tensor.

        Raises:
            ValueError: a score is NaN, infinite or negative.
        """
        curves: list[ValueCurve] = [None] * len(self.layout)  # type: ignore[list-item]
        large = []
        for index, segment in enumerate(self.layout):
            if segment.size > SORTED_SIZE:
                large.append(index)
                continue
            values = self.scores[segment.slice].cpu().numpy()
            if not (values >= 0).all() or np.isinf(values).any():
                raise ValueError(self._describe_invalid(segment))
            curves[index] = ValueCurve.from_values(values)
        for index, (counts, places) in self._histograms(large):
            if counts[_FIRST_INVALID_BIN:].any():
                counts = self._settle_negative_zeros(self.layout.segments[index], counts, places)
            num_null = 0
            if counts[0] and not places[0]:  # nothing but zeros in the bin of the smallest scores
                num_null, counts[0] = int(counts[0]), 0
            curve = ValueCurve.from_histogram(counts, places)
            curves[index] = ValueCurve(curve.count, curve.total, curve.top, curve.bottom, num_null)
        tiny = {i: [c.num_steps - 1] for i, c in enumerate(curves) if c.num_steps and _holds_nulls(c)}
        return self.refine(curves, tiny) if tiny else curves

    def refine(self, curves: Sequence[ValueCurve], steps: Mapping[int, Iterable[int]]) -> list[ValueCurve]:
        """Split coarse steps of some tensors into exact ones: `steps[tensor]` lists them."""
        refined = list(curves)
        wanted: dict[int, Integers] = {}
        for index, listed in steps.items():
            coarse = sorted({step for step in listed if not curves[index].is_exact(step)})
            if coarse:
                wanted[index] = np.array(coarse)
        bins = {index: bins_of(curves[index].bottom[coarse]) for index, coarse in wanted.items()}
        for index, counts in self._bin_counts(bins):
            splits = [curve_of_bin(int(b), row) for b, row in zip(bins[index], counts, strict=True)]
            refined[index] = refined[index].replace_steps(wanted[index], splits)
        return refined

    @abstractmethod
    def write_mask(
        self, thresholds: Sequence[Threshold | None]
    ) -> tuple[UInt8[Tensor, " packed"], Bool[Tensor, " length"]]:
        """Select by one threshold a tensor; None selects nothing of it."""

    @abstractmethod
    def _histograms(self, indices: list[int]) -> Iterable[tuple[int, tuple[Integers, Integers]]]:
        """Counts and sums of places by bin, for each of some tensors."""

    @abstractmethod
    def _bin_counts(self, bins: Mapping[int, Integers]) -> Iterable[tuple[int, list[NDArray[np.integer]]]]:
        """For each tensor and each of its bins: the count of every place."""

    def _settle_negative_zeros(self, segment: Segment, counts: Integers, places: Integers) -> Integers:
        """Count −0.0 as null; anything else outside the bins of finite positive scores is an error."""
        invalid = counts[_FIRST_INVALID_BIN:].copy()
        negative_zero = 0x8000 - _FIRST_INVALID_BIN
        zeros, invalid[negative_zero] = int(invalid[negative_zero]), 0
        if invalid.any() or places[0x8000]:
            raise ValueError(self._describe_invalid(segment))
        counts[0x8000] = 0
        counts[0] += zeros
        return counts

    def _describe_invalid(self, segment: Segment) -> str:
        values = self.scores[segment.slice]
        index = int(torch.nonzero(~(values >= 0) | values.isinf())[0])
        return (
            f"score of {segment.name}[{index}] is {values[index].item()}; scores are finite and not negative"
            " (did the client's training diverge?)"
        )


def _holds_nulls(curve: ValueCurve) -> bool:
    """Whether the last step is bin 0 with nulls and tiny positive scores still together."""
    return bool(curve.bottom[-1] == 0.0)


class CpuScan(Scan):
    """Scores in host memory."""

    def __init__(self, layout: Layout, scores: Float32[Tensor, " length"]) -> None:
        super().__init__(layout, scores)
        self._bits = scores.numpy().view(np.uint32)

    def _histograms(self, indices: list[int]) -> Iterable[tuple[int, tuple[Integers, Integers]]]:
        tasks = self._tasks(indices)
        tables = iterate_items(lambda task: kernels.histogram_chunk(self._bits[task[1]]), tasks)
        merged: dict[int, tuple[Integers, Integers]] = {}
        for (index, _), (counts, places) in zip(tasks, tables, strict=True):
            if index in merged:
                counts, places = merged[index][0] + counts, merged[index][1] + places
            merged[index] = counts, places
        return merged.items()

    def _bin_counts(self, bins: Mapping[int, Integers]) -> Iterable[tuple[int, list[NDArray[np.integer]]]]:
        tasks, rows = [], {}
        for index, part in self._tasks(bins):
            for first in range(0, len(bins[index]), _ROWS):
                if (index, first) not in rows:
                    rows[index, first] = _number_bins(bins[index][first : first + _ROWS])
                tasks.append((index, first, part))

        def count(task: tuple[int, int, slice]) -> NDArray[np.int32]:
            index, first, part = task
            num_rows = min(_ROWS, len(bins[index]) - first)
            counts: NDArray[np.int32] = kernels.refine_chunk(self._bits[part], rows[index, first], num_rows)
            return counts

        merged: dict[tuple[int, int], NDArray[np.int32]] = {}
        for (index, first, _), counts in zip(tasks, iterate_items(count, tasks), strict=True):
            key = index, first
            merged[key] = merged[key] + counts if key in merged else counts
        for index, listed in bins.items():
            yield index, [row for first in range(0, len(listed), _ROWS) for row in merged[index, first]]

    def write_mask(
        self, thresholds: Sequence[Threshold | None]
    ) -> tuple[UInt8[Tensor, " packed"], Bool[Tensor, " length"]]:
        mask = np.zeros(self.layout.length, dtype=np.uint8)
        words, packed = mask.view(np.uint64), np.zeros(self.layout.length // 8, dtype=np.uint8)
        bits = self._bits.view(np.int32)  # signed: −0.0 sorts below every score

        def write(task: tuple[int, slice]) -> None:
            index, part = task
            pattern, tie_end = borders[index]
            eighth = slice(part.start // 8, -(-part.stop // 8))
            start = self.layout.segments[index].offset
            kernels.write_mask_chunk(
                bits[part], pattern, tie_end - (part.start - start), mask[part], words[eighth], packed[eighth]
            )

        borders: dict[int, tuple[np.int32, int]] = {}
        for index, threshold in enumerate(thresholds):
            if threshold is not None:
                segment = self.layout.segments[index]
                pattern, tie_end = np.float32(threshold.score).view(np.int32), segment.size
                if threshold.num_ties < threshold.num_equal:
                    tie_end = kernels.end_of_ties(bits[segment.slice], pattern, threshold.num_ties)
                borders[index] = pattern, tie_end
        map_items(write, self._tasks(borders))
        return torch.from_numpy(packed), torch.from_numpy(mask.view(np.bool_))

    def _tasks(self, indices: Iterable[int]) -> list[tuple[int, slice]]:
        """Chunks of some tensors, tensor by tensor."""
        tasks = []
        for index in indices:
            segment = self.layout.segments[index]
            for start, stop in kernels.chunks(segment.size):
                tasks.append((index, slice(segment.offset + start, segment.offset + stop)))
        return tasks


class TorchScan(Scan):
    """Scores on any device, in torch operations; only tables travel to the host."""

    def _histograms(self, indices: list[int]) -> Iterable[tuple[int, tuple[Integers, Integers]]]:
        for index in indices:
            counts = torch.zeros(kernels.NUM_BINS, dtype=torch.int64, device=self.scores.device)
            places = torch.zeros(kernels.NUM_BINS, dtype=torch.float64, device=self.scores.device)
            for bits in self._chunks(index):
                bins = bits.bitwise_right_shift(16).bitwise_and(0xFFFF)
                counts += torch.bincount(bins, minlength=kernels.NUM_BINS)
                # Integers below 2^53 in float64: exact in whatever order a GPU adds them.
                places += torch.bincount(bins, bits.bitwise_and(0xFFFF).double(), minlength=kernels.NUM_BINS)
            yield index, (counts.cpu().numpy(), places.long().cpu().numpy())

    def _bin_counts(self, bins: Mapping[int, Integers]) -> Iterable[tuple[int, list[NDArray[np.integer]]]]:
        for index, listed in bins.items():
            rows = torch.zeros(len(listed), kernels.NUM_BINS, dtype=torch.int64, device=self.scores.device)
            for bits in self._chunks(index):
                upper = bits.bitwise_right_shift(16).bitwise_and(0xFFFF)
                for row, wanted in zip(rows, listed.tolist(), strict=True):
                    row += torch.bincount(bits[upper == wanted].bitwise_and(0xFFFF), minlength=kernels.NUM_BINS)
            yield index, list(rows.cpu().numpy())

    def write_mask(
        self, thresholds: Sequence[Threshold | None]
    ) -> tuple[UInt8[Tensor, " packed"], Bool[Tensor, " length"]]:
        mask = torch.zeros(self.layout.length, dtype=torch.bool, device=self.scores.device)
        for segment, threshold in zip(self.layout, thresholds, strict=True):
            if threshold is not None:
                values, chosen = self.scores[segment.slice], mask[segment.slice]
                torch.ge(values, threshold.score, out=chosen)
                if threshold.num_ties < threshold.num_equal:
                    ties = torch.nonzero(values == threshold.score).flatten()
                    chosen[ties[threshold.num_ties :]] = False
        return pack_mask(mask), mask

    def _chunks(self, index: int) -> Iterable[Tensor]:
        bits = self.scores[self.layout.segments[index].slice].view(torch.int32)
        return torch.split(bits, kernels.CHUNK * 8)


def _number_bins(bins: Integers) -> NDArray[np.int16]:
    """A table from bin to row, −1 for bins that are not listed."""
    rows = np.full(kernels.NUM_BINS, -1, dtype=np.int16)
    rows[bins] = np.arange(len(bins))
    return rows


def open_scan(layout: Layout, scores: Float32[Tensor, " length"]) -> Scan:
    """The scan for the device that the scores are on."""
    contiguous = scores.detach().contiguous()
    return CpuScan(layout, contiguous) if contiguous.device.type == "cpu" else TorchScan(layout, contiguous)
