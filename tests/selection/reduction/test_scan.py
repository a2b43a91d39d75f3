import math

import numpy as np
import pytest
import torch

from fedpurin.selection.reduction.curve import ValueCurve
from fedpurin.selection.reduction.scan import CpuScan, Scan, Threshold, TorchScan
from fedpurin.space import Layout, pack_mask
from tests.selection import naive
from tests.selection.instances import KINDS, draw_scores

LAYOUT = Layout.from_sizes([100, 9_001, 30_000, 7])  # sorted, histogram, histogram, sorted


def test_curve_of_sorted_values_by_hand() -> None:
    curve = ValueCurve.from_values(np.array([1, 3, 0, 3, 2], dtype=np.float32))
    assert (curve.top.tolist(), curve.count.tolist(), curve.num_null) == ([3, 2, 1], [2, 1, 1], 1)
    assert [curve.value_at(k) for k in range(5)] == [0, 3, 6, 8, 9]
    assert [curve.step_above(price) for price in (3.5, 3, 2, 0.5)] == [0, 0, 1, 3]


@pytest.mark.parametrize("scan_type", [CpuScan, TorchScan])
@pytest.mark.parametrize("kind", KINDS)
def test_curves_masks_and_thresholds_match_a_sort(scan_type: type[Scan], kind: str) -> None:
    scores = LAYOUT.embed(draw_scores(kind, LAYOUT.size, seed=1))
    scan = scan_type(LAYOUT, scores)
    curves = scan.curves()
    counts = [min(segment.size // 3, curve.num_scores) for segment, curve in zip(LAYOUT, curves, strict=True)]
    curves = scan.refine(curves, {i: [curves[i].step_at(k)] for i, k in enumerate(counts) if k})
    thresholds: list[Threshold | None] = []
    for segment, curve, count in zip(LAYOUT, curves, counts, strict=True):
        values = np.sort(scores[segment.slice].double().numpy())[::-1]
        assert curve.num_scores == np.count_nonzero(values)
        assert curve.num_scores + curve.num_null == segment.size
        borders = [0.0, *np.cumsum(values)[curve.num[1:] - 1]]
        assert np.allclose(curve.value, borders, rtol=1e-12, atol=0)
        assert math.isclose(curve.value_at(count), values[:count].sum(), rel_tol=1e-12)
        thresholds.append(None)
        if count:
            step = curve.step_at(count)
            assert curve.is_exact(step)
            num_ties = count - int(curve.num[step])
            thresholds[-1] = Threshold(float(curve.top[step]), num_ties, int(curve.count[step]))
    packed, mask = scan.write_mask(thresholds)
    expected = torch.zeros(LAYOUT.length, dtype=torch.bool)
    for segment, count in zip(LAYOUT, counts, strict=True):
        expected[segment.slice] = naive.top(scores[segment.slice], count)
    assert torch.equal(mask, expected)
    assert torch.equal(packed, pack_mask(expected))


@pytest.mark.parametrize("kind", ["heavy", "nulls", "subnormal"])
def test_both_scans_agree_bit_for_bit(kind: str) -> None:
    scores = LAYOUT.embed(draw_scores(kind, LAYOUT.size, seed=2))
    for one, other in zip(CpuScan(LAYOUT, scores).curves(), TorchScan(LAYOUT, scores).curves(), strict=True):
        assert one.num_null == other.num_null
        assert np.array_equal(one.num, other.num)
        assert np.array_equal(one.value.view(np.int64), other.value.view(np.int64))


@pytest.mark.parametrize("scan_type", [CpuScan, TorchScan])
@pytest.mark.parametrize("position", [5, 9_200])  # in a sorted tensor, in a histogram
def test_invalid_scores_are_named(scan_type: type[Scan], position: int) -> None:
    scores = torch.ones(LAYOUT.length)
    for bad, text in ((math.nan, "nan"), (math.inf, "inf"), (-1e-30, "-1.0")):
        scores[position] = bad
        with pytest.raises(ValueError, match=rf"score of tensor\d\[\d+\] is {text}"):
            scan_type(LAYOUT, scores).curves()
    scores[position] = -0.0
    assert sum(curve.num_null for curve in scan_type(LAYOUT, scores).curves()) == 1
