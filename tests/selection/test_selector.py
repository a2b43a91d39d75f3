import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedpurin.config import ConfigError, ProgramConfig
from fedpurin.selection import Selector, cardinality, solver
from fedpurin.selection.answer import close_gap, name_status, relative_gap
from fedpurin.space import Layout, pack_mask
from tests.selection import naive
from tests.selection.instances import draw_scores

LAYOUT = Layout.from_sizes([300, 120])
SCORES = LAYOUT.embed(draw_scores("normal", LAYOUT.size, seed=0))
PROGRAMS = ("layerwise", "global", "budget")


@pytest.mark.parametrize("name", PROGRAMS)
def test_packed_and_boolean_masks_agree(name: Any) -> None:
    selection = Selector(LAYOUT, ProgramConfig(name=name)).solve(SCORES)
    assert torch.equal(selection.packed, pack_mask(selection.mask))
    assert selection.certificate.num_selected == int(selection.mask.sum())
    certificate = selection.certificate
    parts = certificate.reduction_seconds + certificate.building_seconds + certificate.solver_seconds
    assert parts == pytest.approx(certificate.total_seconds)
    assert certificate.upper_bound >= certificate.objective


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_worker_thread_gives_the_same_mask(name: Any) -> None:
    selector = Selector(LAYOUT, ProgramConfig(name=name))
    here = selector.solve(SCORES)
    with ThreadPoolExecutor(1) as worker:
        there = worker.submit(selector.solve, SCORES).result()
    assert torch.equal(here.mask, there.mask)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_number_of_threads_does_not_matter(name: Any) -> None:
    layout = Layout.from_sizes([1_200_000, 70_000])  # the first takes two chunks
    scores = layout.embed(draw_scores("heavy", layout.size, seed=1))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(Selector(layout, ProgramConfig(name=name)).solve(scores))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].mask, found[1].mask)
    assert found[0].certificate.objective == found[1].certificate.objective
    assert found[0].certificate.upper_bound == found[1].certificate.upper_bound


def test_compiled_statements_are_kept_between_solves() -> None:
    selector = Selector(LAYOUT, ProgramConfig(name="budget"))
    selector.solve(SCORES)
    statements = selector.program._solver._statements  # type: ignore[union-attr]
    kept = dict(statements)
    selector.solve(SCORES)
    assert statements == kept


@pytest.mark.usefixtures("unchecked")
def test_scores_that_do_not_fit_are_refused() -> None:
    selector = Selector(LAYOUT, ProgramConfig())
    with pytest.raises(ValueError, match=r"shape \(7,\); the layout needs float32 and \(448,\)"):
        selector.solve(torch.ones(7))
    with pytest.raises(ValueError, match=r"torch.float64"):
        selector.solve(SCORES.double())
    bad = SCORES.clone()
    bad[3] = math.nan
    with pytest.raises(ValueError, match=r"score of tensor0\[3\] is nan"):
        selector.solve(bad)
    assert torch.equal(selector.solve(SCORES).mask, naive.layerwise(LAYOUT, SCORES, 0.5))  # still usable


def test_missing_solver_is_named() -> None:
    with pytest.raises(ConfigError, match=r"program.solver='NOPE' is not an installed .* SCIP"):
        Selector(LAYOUT, ProgramConfig(solver="NOPE"))


def test_failing_solver_is_named_and_the_selector_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    selector = Selector(LAYOUT, ProgramConfig())
    with monkeypatch.context() as patch:
        patch.setattr(solver, "_options", lambda *_: {"scip_params": {"limits/time": -1.0}})
        with pytest.raises(solver.SolverError, match="SCIP failed"):
            selector.solve(SCORES)
    assert selector.solve(SCORES).certificate.gap == 0.0


@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("name", PROGRAMS)
def test_time_limit_returns_a_feasible_mask_with_its_true_gap(name: Any, reduce: bool) -> None:
    program = ProgramConfig(name=name, budget=0.1, time_limit=1e-9, gap_tolerance=0.0, reduce=reduce)
    selection = Selector(LAYOUT, program).solve(SCORES)
    certificate = selection.certificate
    exact = ProgramConfig(name=name, budget=0.1, gap_tolerance=0.0)
    best = Selector(LAYOUT, exact).solve(SCORES).certificate.objective
    assert certificate.objective <= best * (1 + 1e-9)
    assert certificate.upper_bound >= best * (1 - 1e-9)
    assert certificate.status == ("optimal" if certificate.gap == 0.0 else "time_limit")
    assert certificate.num_selected == int(selection.mask.sum()) > 0


def test_all_null_selects_nothing() -> None:
    for name in PROGRAMS:
        selection = Selector(LAYOUT, ProgramConfig(name=name)).solve(torch.zeros(LAYOUT.length))  # type: ignore[arg-type]
        certificate = selection.certificate
        assert not selection.mask.any()
        assert (certificate.status, certificate.gap, certificate.num_null) == ("optimal", 0.0, 420)


def test_gap_arithmetic_by_hand() -> None:
    assert relative_gap(99.0, 100.0) == pytest.approx(0.01)
    assert relative_gap(0.0, 0.0) == 0.0
    assert close_gap(1.0, 1.0 + 1e-10) == 1.0
    assert close_gap(1.0, 1.0 + 1e-8) == 1.0 + 1e-8
    assert name_status(0.0, 0.0, False) == "optimal"
    assert name_status(1e-5, 1e-4, False) == "within_tolerance"
    assert name_status(1e-3, 1e-4, False) == "time_limit"
    assert name_status(1e-3, 1e-4, True) == "numerical_limit"


@pytest.mark.parametrize("name", PROGRAMS)
def test_many_clients_at_once_get_the_masks_that_each_gets_alone(name: Any) -> None:
    kinds = ("normal", "ties", "nulls", "heavy", "zero", "equal")
    rows = torch.stack([LAYOUT.embed(draw_scores(kind, LAYOUT.size, seed=3)) for kind in kinds])
    selector = Selector(LAYOUT, ProgramConfig(name=name))
    together, alone = selector.solve_many(rows), [selector.solve(row) for row in rows]
    assert len(together) == 6
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.packed, other.packed)
        assert torch.equal(one.mask, other.mask)
        mine, its = one.certificate, other.certificate
        assert (mine.status, mine.objective, mine.upper_bound) == (its.status, its.objective, its.upper_bound)
        assert (mine.num_selected, mine.num_null, mine.core_size) == (its.num_selected, its.num_null, its.core_size)


def test_many_clients_with_a_large_tensor_are_worth_the_same_to_the_last_bit() -> None:
    layout = Layout.from_sizes([9_000, 300])  # the first takes the histogram when it is solved alone
    kinds = ("normal", "heavy", "nulls", "ties", "equal")
    rows = torch.stack([layout.embed(draw_scores(kind, layout.size, seed=8)) for kind in kinds])
    for program in (ProgramConfig(tau=0.3), ProgramConfig(tau=0.3, open_below=1e-2)):
        selector = Selector(layout, program)
        for one, row in zip(selector.solve_many(rows), rows, strict=True):
            other = selector.solve(row)
            assert torch.equal(one.mask, other.mask)
            assert one.certificate.objective == other.certificate.objective
            assert one.certificate.num_selected == other.certificate.num_selected


def test_equal_scores_of_a_stack_go_to_the_lower_index() -> None:
    layout = Layout.from_sizes([5, 4])
    rows = torch.stack([layout.embed(torch.tensor([1.0, 3, 1, 1, 0, 2, 2, 2, 2])), torch.zeros(layout.length)])
    found, empty = Selector(layout, ProgramConfig(tau=0.5)).solve_many(rows)
    assert found.mask.nonzero().flatten().tolist() == [0, 1, 64, 65]
    assert found.packed.nonzero().flatten().tolist() == [0, 8]
    assert (found.certificate.objective, found.certificate.core_size, found.certificate.num_null) == (8.0, 2, 1)
    assert not empty.mask.any()


@pytest.mark.usefixtures("unchecked")
def test_a_score_of_a_stack_that_is_not_valid_is_named() -> None:
    rows = SCORES.repeat(3, 1)
    rows[1, 5] = -1.0
    with pytest.raises(ValueError, match=r"score of tensor0\[5\] is -1"):
        Selector(LAYOUT, ProgramConfig()).solve_many(rows)


def test_what_a_joint_solve_leaves_short_is_solved_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    selector = Selector(LAYOUT, ProgramConfig())
    real = selector.program.solve_ties  # type: ignore[union-attr]

    def short(*arguments: Any) -> Any:
        best, outcome = real(*arguments)
        best[1] = False
        return best, outcome

    monkeypatch.setattr(selector.program, "solve_ties", short)
    rows = SCORES.repeat(3, 1)
    alone = []
    monkeypatch.setattr(Selector, "solve", lambda self, row, solve=Selector.solve: alone.append(1) or solve(self, row))
    found = selector.solve_many(rows)
    assert len(alone) == 1
    assert all(torch.equal(one.mask, naive.layerwise(LAYOUT, SCORES, 0.5)) for one in found)


@pytest.mark.parametrize("name", ["layerwise", "global"])
def test_many_clients_are_one_call_of_the_solver(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], cardinality.solve_statement
    monkeypatch.setattr(cardinality, "solve_statement", lambda *a, **k: calls.append(1) or real(*a, **k))
    Selector(LAYOUT, ProgramConfig(name=name)).solve_many(SCORES.expand(7, -1))
    assert len(calls) == 1


def test_every_client_of_a_joint_global_program_has_its_own_total() -> None:
    """By hand: four of nine; the first tensor gives at most four and at least two, the second at least one."""
    layout = Layout.from_sizes([5, 4])
    config = ProgramConfig(name="global", tau=0.45, density_floor=0.25, density_ceiling=0.8)
    scores = [[9.0, 8, 7, 6, 5, 1, 1, 1, 1], [1.0, 1, 1, 1, 1, 9, 8, 7, 6], [0.0] * 9]
    most, least, nothing = Selector(layout, config).solve_many(
        torch.stack([layout.embed(torch.tensor(row)) for row in scores])
    )
    assert most.mask.nonzero().flatten().tolist() == [0, 1, 2, 64]
    assert least.mask.nonzero().flatten().tolist() == [0, 1, 64, 65]
    assert (most.certificate.objective, least.certificate.objective) == (25.0, 19.0)
    assert (most.certificate.gap, least.certificate.gap, nothing.certificate.num_selected) == (0.0, 0.0, 0)


def test_a_global_program_that_a_joint_solve_leaves_short_is_solved_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    selector = Selector(LAYOUT, ProgramConfig(name="global"))
    rows = torch.stack([SCORES, SCORES.flip(0) * selector.layout.parameter_mask(), SCORES])
    expected = [selector.solve(row) for row in rows]
    program: Any = selector.program
    real, seen = program.solve_many, []

    def short(scans: Any, deadline: float) -> Any:
        seen.append(len(scans))
        answers = real(scans, deadline)
        return [replace(answer, is_finished=len(scans) == 1 or k != 1) for k, answer in enumerate(answers)]

    monkeypatch.setattr(program, "solve_many", short)
    found = selector.solve_many(rows)
    assert seen == [3, 1]
    assert all(torch.equal(one.mask, other.mask) for one, other in zip(found, expected, strict=True))
