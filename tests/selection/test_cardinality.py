import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedpurin.config import ConfigError, ProgramConfig
from fedpurin.selection import Selector
from fedpurin.selection.cardinality import CardinalityProgram
from fedpurin.selection.reduction.passes import AggregateEqual, DropNull, Reduction
from fedpurin.selection.reduction.prices import FixByPrice
from fedpurin.selection.reduction.scan import open_scan
from fedpurin.space import Layout
from tests.selection import naive
from tests.selection.instances import KINDS, draw_scores, instances

PASSES: tuple[Reduction, ...] = (DropNull(), FixByPrice(), AggregateEqual())
SHARES = st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.9, 1.0])


def test_lower_index_wins_among_equal_scores() -> None:
    layout = Layout.from_sizes([4, 3])
    scores = layout.embed(torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0, 5.0, 5.0]))
    selection = Selector(layout, ProgramConfig(tau=0.5)).solve(scores)
    assert layout.extract(selection.mask).tolist() == [True, True, False, False, False, True, False]
    assert (selection.packed[0].item(), selection.packed[8].item()) == (0b0011, 0b010)
    certificate = selection.certificate
    assert (certificate.status, certificate.objective, certificate.gap) == ("optimal", 8.0, 0.0)
    assert (certificate.num_selected, certificate.num_null, certificate.core_size) == (3, 1, 2)


def test_global_ties_go_to_the_lower_flat_index() -> None:
    layout = Layout.from_sizes([3, 3])
    scores = layout.embed(torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 7.0]))
    selection = Selector(layout, ProgramConfig(name="global", tau=0.5)).solve(scores)
    assert layout.extract(selection.mask).tolist() == [True, True, False, False, False, True]


def test_floor_and_ceiling_bind() -> None:
    layout = Layout.from_sizes([4, 4])
    scores = layout.embed(torch.tensor([9.0, 8.0, 7.0, 6.0, 0.4, 0.3, 0.2, 0.1]))
    program = ProgramConfig(name="global", tau=0.5, density_floor=0.25, density_ceiling=0.5)
    selection = Selector(layout, program).solve(scores)
    assert layout.extract(selection.mask).tolist() == [True, True, False, False, True, True, False, False]
    assert selection.certificate.objective == pytest.approx(17.7)
    assert selection.certificate.gap == 0.0


def test_the_cap_is_lifted_where_the_threshold_is_as_small_as_fedcac_says() -> None:
    """Published FedCAC: with ⌊τ n⌋ = 2, a second largest score of 1e-10 or less makes all above the cutoff critical."""
    layout = Layout.from_sizes([4, 4, 4, 3])
    scores = layout.embed(
        torch.tensor(
            [
                *(5.0, 1e-11, 1e-12, 0.0),  # the threshold is 1e-11: three of four
                *(5.0, 2e-10, 1e-12, 1e-13),  # above: two
                *(5.0, 0.0, 0.0, 0.0),  # what is not null is one
                *(1e-11, 1e-12, 1e-13),  # ⌊1.5⌋ = 1, and the largest is small: all
            ]
        )
    )
    program = ProgramConfig(tau=0.5, open_below=1e-10)
    chosen = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1]]
    for reduce in (True, False):
        selection = Selector(layout, replace(program, reduce=reduce)).solve(scores)
        taken = [layout.extract(selection.mask)[start : start + 4].int().tolist() for start in (0, 4, 8, 12)]
        assert (taken if reduce else taken[1:3]) == (chosen if reduce else chosen[1:3])
    capped = Selector(layout, ProgramConfig(tau=0.5)).solve(scores)
    assert layout.extract(capped.mask).int().tolist() == [1, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0]


def test_the_cap_of_a_large_tensor_is_lifted_by_a_second_look() -> None:
    """Scores around 1e-10 share a bin of the histogram; only the exact one decides."""
    small = 1e-10 * torch.linspace(0.99, 1.01, 20_000)
    layout = Layout.from_sizes([20_000])
    for share, count in ((0.25, 5_000), (0.75, 20_000)):  # the threshold is above 1e-10, or below
        selection = Selector(layout, ProgramConfig(tau=share, open_below=1e-10)).solve(layout.embed(small))
        assert int(selection.mask.sum()) == count


@settings(max_examples=60, deadline=None)
@given(instances(), SHARES)
def test_layerwise_equals_the_published_rule(instance: tuple[Layout, Tensor], tau: float) -> None:
    layout, scores = instance
    selection = Selector(layout, ProgramConfig(tau=tau)).solve(scores)
    assert torch.equal(selection.mask, naive.layerwise(layout, scores, tau))
    assert (selection.certificate.status, selection.certificate.gap) == ("optimal", 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_layerwise_on_large_tensors(kind: str) -> None:
    layout = Layout.from_sizes([20_000, 65, 9_000])
    scores = layout.embed(draw_scores(kind, layout.size, seed=3))
    selection = Selector(layout, ProgramConfig(tau=0.3)).solve(scores)
    assert torch.equal(selection.mask, naive.layerwise(layout, scores, 0.3))
    assert selection.certificate.gap == 0.0


@settings(max_examples=40, deadline=None)
@given(instances(max_size=9, max_tensors=3), SHARES, st.sampled_from([0.0, 0.2]), st.sampled_from([0.6, 1.0]))
def test_global_equals_enumeration(instance: tuple[Layout, Tensor], tau: float, floor: float, ceiling: float) -> None:
    layout, scores = instance
    if floor > tau:
        return
    try:
        selector = Selector(layout, ProgramConfig(name="global", tau=tau, density_floor=floor, density_ceiling=ceiling))
    except ConfigError:
        return
    selection = selector.solve(scores)
    total = math.floor(tau * layout.size)
    expected = naive.best_global(layout, scores, total, floor, ceiling)
    assert selection.certificate.objective == pytest.approx(expected, rel=1e-12, abs=0)
    assert selection.certificate.gap == 0.0
    assert int(selection.mask.sum()) <= total
    assert scores[selection.mask].double().sum().item() == pytest.approx(expected, rel=1e-12, abs=0)


@settings(max_examples=40, deadline=None)
@given(instances(), SHARES)
def test_global_without_bounds_is_one_sort(instance: tuple[Layout, Tensor], tau: float) -> None:
    layout, scores = instance
    selection = Selector(layout, ProgramConfig(name="global", tau=tau)).solve(scores)
    assert torch.equal(selection.mask, naive.top(scores, math.floor(tau * layout.size)))


@settings(max_examples=25, deadline=None)
@given(instances(kinds=("normal", "ties", "nulls", "equal", "zero", "giant")), SHARES, st.booleans())
def test_reduction_equals_the_full_program(instance: tuple[Layout, Tensor], tau: float, is_global: bool) -> None:
    layout, scores = instance
    objectives = []
    for reduce in (True, False):
        program = ProgramConfig(name="global" if is_global else "layerwise", tau=tau, reduce=reduce)
        certificate = Selector(layout, program).solve(scores).certificate
        assert certificate.gap == 0.0
        objectives.append(certificate.objective)
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-9, abs=0)


@pytest.mark.parametrize("left_out", range(len(PASSES)))
@pytest.mark.parametrize("name", ["layerwise", "global"])
def test_any_pass_can_be_left_out(left_out: int, name: str) -> None:
    layout = Layout.from_sizes([40, 3, 25])
    scores = layout.embed(draw_scores("ties", layout.size, seed=4))
    program = ProgramConfig(name=name, tau=0.4)  # type: ignore[arg-type]
    answers = []
    for passes in (PASSES, PASSES[:left_out] + PASSES[left_out + 1 :]):
        answer = CardinalityProgram(layout, program, passes).solve(open_scan(layout, scores), math.inf)
        answers.append((answer.counts, answer.objective, answer.upper_bound))
    assert answers[0] == answers[1]


def test_what_cannot_be_satisfied_is_refused_before_training() -> None:
    layout = Layout.from_sizes([3, 5])
    with pytest.raises(ConfigError, match=r"at least 3 parameters in all; program.tau=0.35 allows 2 of 8"):
        Selector(layout, ProgramConfig(name="global", tau=0.35, density_floor=0.3))
    with pytest.raises(ConfigError, match=r"leave no count for tensor0"):
        Selector(layout, ProgramConfig(name="global", tau=1.0, density_floor=0.5, density_ceiling=0.5))


def test_floor_of_a_tensor_with_few_scores_is_what_it_has() -> None:
    layout = Layout.from_sizes([10, 10])
    scores = layout.embed(torch.cat((torch.tensor([1.0] + [0.0] * 9), torch.full((10,), 5.0))))
    selection = Selector(layout, ProgramConfig(name="global", tau=0.5, density_floor=0.4)).solve(scores)
    assert [int(selection.mask[segment.slice].sum()) for segment in layout] == [1, 9]
