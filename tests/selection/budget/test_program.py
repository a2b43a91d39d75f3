import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedpurin.config import ConfigError, ProgramConfig
from fedpurin.exchange.wire.costs import Encoding, EncodingCost, dense_bytes
from fedpurin.selection import Selector
from fedpurin.selection.budget.byte_passes import DropDominated, FixByBytePrice, FixByCapacity, smallest_somewhere
from fedpurin.selection.budget.program import BudgetProgram
from fedpurin.selection.reduction.passes import DropNull, Reduction
from fedpurin.selection.reduction.scan import open_scan
from fedpurin.space import Layout
from tests.selection import naive
from tests.selection.instances import draw_scores, instances

PASSES: tuple[Reduction, ...] = (DropNull(), DropDominated(), FixByBytePrice(), FixByCapacity())
PLAIN = ("normal", "ties", "nulls", "heavy", "giant", "equal", "zero")


def solve(layout: Layout, scores: Tensor, budget: float, value_bytes: int = 4, **options: Any) -> Any:
    program = ProgramConfig(name="budget", budget=budget, **options)
    return Selector(layout, program, value_bytes=value_bytes, overhead_bytes=40).solve(scores)


def greedy_by_density(layout: Layout, scores: Tensor, capacity: int) -> float:
    """Take whatever parameter gains most per byte that it adds, while one fits."""
    counts = [0] * len(layout)
    parts = [sorted(scores[segment.slice].double().tolist(), reverse=True) for segment in layout]
    sizes = [segment.size for segment in layout]
    used = sum(naive.message_bytes(size, 0, 4) for size in sizes)
    while True:
        offers = []
        for tensor, (size, part, count) in enumerate(zip(sizes, parts, counts, strict=True)):
            if count < size and part[count] > 0:
                added = naive.message_bytes(size, count + 1, 4) - naive.message_bytes(size, count, 4)
                if used + added <= capacity:
                    offers.append((part[count] / max(added, 1e-9), tensor, added))
        if not offers:
            return sum(sum(part[:count]) for part, count in zip(parts, counts, strict=True))
        _, tensor, added = max(offers)
        counts[tensor] += 1
        used += added


def test_the_solver_beats_greedy() -> None:
    """63 bytes, besides the three block tables, buy 13 values of 13 (11 bytes of bitmap and 13 · 4) or 15 of 12 (3 and
    15 · 4). The best score per byte leads to the first, and so does the price of a byte; the solver finds the second.
    """
    layout = Layout.from_sizes([71, 18, 85])
    scores = layout.embed(torch.cat((torch.full((71,), 8.0), torch.full((18,), 12.0), torch.full((85,), 13.0))))
    capacity = 3 * 4 + 63
    program = BudgetProgram(layout, ProgramConfig(name="budget", budget=40 + capacity), 4, 40)
    _, start = program._price(program._open(open_scan(layout, scores)), None)
    assert (greedy_by_density(layout, scores, capacity), start.objective) == (169.0, 169.0)
    for reduce in (True, False):
        selection = solve(layout, scores, 40 + capacity, gap_tolerance=0.0, reduce=reduce)
        assert (selection.certificate.objective, selection.certificate.gap) == (180.0, 0.0)
        assert selection.encodings == (Encoding.NONE, Encoding.BITMAP, Encoding.NONE)


def test_values_of_a_byte_by_hand() -> None:
    """7 bytes beside the table: with a byte a value, 5 of 16 and a bitmap of 2 bytes; with two bytes a value, 2."""
    layout = Layout.from_sizes([16])
    scores = layout.embed(torch.arange(1.0, 17.0))
    for value_bytes, chosen in ((1, [16, 15, 14, 13, 12]), (2, [16, 15])):
        selection = solve(layout, scores, 40 + 4 + 7, value_bytes, gap_tolerance=0.0)
        assert selection.certificate.objective == sum(chosen)
        assert selection.certificate.gap == 0.0
        assert sorted(scores[selection.mask].tolist(), reverse=True) == chosen
    # All 16 are charged with 17 bytes (15 of them take a bitmap of 2, and no index encoding takes less); 16 hold 14.
    assert [solve(layout, scores, 40 + 4 + k, 1).certificate.num_selected for k in (17, 16)] == [16, 14]
    assert solve(layout, scores, 40 + 4 + 17, 1).encodings == (Encoding.DENSE,)


@settings(max_examples=25, deadline=None)
@given(instances(max_size=5, max_tensors=3, kinds=PLAIN), st.integers(0, 60), st.sampled_from([1, 2, 4]))
def test_equals_brute_force(instance: tuple[Layout, Tensor], capacity: int, value_bytes: int) -> None:
    layout, scores = instance
    capacity += 4 * len(layout)  # the block tables, without which no message exists
    selection = solve(layout, scores, 40 + capacity, value_bytes, gap_tolerance=0.0)
    expected = naive.best_budget(layout, scores, capacity, value_bytes)
    assert selection.certificate.objective == pytest.approx(expected, rel=1e-9, abs=0)
    assert selection.certificate.gap == 0.0
    assert naive.upload_bytes(layout, selection.mask, value_bytes) <= capacity


@settings(max_examples=12, deadline=None)
@given(
    instances(max_size=120, kinds=PLAIN),
    st.sampled_from([0.3, 0.5, 0.7, 0.95, 1.0]),
    st.sampled_from([1, 2, 4]),
)
def test_reduction_equals_the_full_program(instance: tuple[Layout, Tensor], share: float, value_bytes: int) -> None:
    layout, scores = instance
    capacity = math.floor(share * dense_bytes(layout, value_bytes)) - 40
    if capacity < 4 * len(layout):
        return
    objectives = []
    for reduce in (True, False):
        selection = solve(layout, scores, share, value_bytes, gap_tolerance=0.0, reduce=reduce)
        assert naive.upload_bytes(layout, selection.mask, value_bytes) <= capacity
        assert selection.certificate.gap == 0.0
        assert not selection.mask[scores == 0].any()
        objectives.append(selection.certificate.objective)
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-9, abs=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
def test_reduction_equals_the_full_program_at_5000(kind: str, share: float) -> None:
    layout = Layout.from_sizes([2_900, 1_200, 600, 250, 50])
    scores = layout.embed(draw_scores(kind, layout.size, seed=5))
    one = solve(layout, scores, share, gap_tolerance=0.0)
    other = solve(layout, scores, share, gap_tolerance=0.0, reduce=False, time_limit=600.0)
    assert one.certificate.gap == 0.0
    assert one.certificate.objective == pytest.approx(other.certificate.objective, rel=1e-9)


@pytest.mark.parametrize("kind", ["normal", "heavy", "equal", "nulls", "ties"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_default_tolerance_on_large_tensors(kind: str, share: float) -> None:
    layout = Layout.from_sizes([60_000, 20_000, 9_000, 4_000, 64])
    scores = layout.embed(draw_scores(kind, layout.size, seed=6))
    selection = solve(layout, scores, share)
    certificate = selection.certificate
    assert certificate.gap <= 1e-4
    assert certificate.status in ("optimal", "within_tolerance")
    assert scores[selection.mask].double().sum().item() == pytest.approx(certificate.objective, rel=1e-12)
    assert naive.upload_bytes(layout, selection.mask, 4) <= math.floor(share * dense_bytes(layout, 4)) - 40
    expected = torch.cat([naive.top(scores[s.slice], int(selection.mask[s.slice].sum())) for s in layout])
    assert torch.equal(layout.extract(selection.mask), expected)  # the largest of each tensor, lower index first


def test_everything_fits_and_nothing_fits() -> None:
    layout = Layout.from_sizes([100, 30])
    scores = layout.embed(draw_scores("nulls", layout.size, seed=7))
    everything = solve(layout, scores, 1.0, gap_tolerance=0.0)
    assert torch.equal(everything.mask, scores > 0)
    nothing = solve(layout, scores, 40 + 8, gap_tolerance=0.0)
    assert not nothing.mask.any()
    assert (nothing.certificate.status, nothing.certificate.upper_bound) == ("optimal", 0.0)
    assert nothing.encodings == (Encoding.NONE, Encoding.NONE)
    with pytest.raises(ConfigError, match=r"program\.budget=47 is 47 bytes; an upload without a single value"):
        solve(layout, scores, 47)


@pytest.mark.parametrize("left_out", range(len(PASSES)))
def test_any_pass_can_be_left_out(left_out: int) -> None:
    layout = Layout.from_sizes([90, 40, 25])
    scores = layout.embed(draw_scores("normal", layout.size, seed=8))
    program = ProgramConfig(name="budget", budget=0.4, gap_tolerance=0.0)
    objectives = []
    for passes in (PASSES, PASSES[:left_out] + PASSES[left_out + 1 :]):
        budget = BudgetProgram(layout, program, 4, 40, passes)
        answer = budget.solve(open_scan(layout, scores), math.inf)
        assert answer.upper_bound == answer.objective
        objectives.append(answer.objective)
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-12)


def test_dominated_encodings_by_hand() -> None:
    costs = (
        EncodingCost(Encoding.DENSE, 400, 0),
        EncodingCost(Encoding.BITMAP, 13, 4),  # smaller than COORDINATE16 from 7 values on
        EncodingCost(Encoding.COORDINATE8, 14, 5),  # never the smallest
        EncodingCost(Encoding.COORDINATE16, 0, 6),
    )
    assert smallest_somewhere(costs, most=100) == [0, 1, 3]
    assert smallest_somewhere(costs, most=5) == [3]


def test_other_solver_gives_the_same_objective() -> None:
    layout = Layout.from_sizes([300, 120, 50])
    scores = layout.embed(draw_scores("normal", layout.size, seed=9))
    found = [solve(layout, scores, 0.2, gap_tolerance=0.0, solver=name).certificate for name in ("SCIP", "HIGHS")]
    assert found[0].objective == pytest.approx(found[1].objective, rel=1e-9)
    assert [certificate.gap for certificate in found] == [0.0, 0.0]
