"""Budgets that bind: random programs, most of them with hardly a byte to spare."""

from __future__ import annotations

import secrets

import numpy as np
import pytest
import torch

from fedpurin.config import ProgramConfig
from fedpurin.exchange.wire.costs import dense_bytes
from fedpurin.selection import Certificate, Selector, solver
from fedpurin.selection.solver import InvalidStatusError
from fedpurin.space import Layout
from tests.selection import naive

STATUSES = ("optimal", "within_tolerance", "numerical_limit")
"""What a solve may end with; `solver_failed` and `time_limit` may not occur here."""


def solve_drawn(seed: int, index: int) -> Certificate:
    """Draw program `index` of a seed, solve it, and check all that can be checked without a solver."""
    rng = np.random.default_rng([seed, index])
    sizes = np.exp(rng.uniform(0, np.log(3_000), rng.integers(1, 7))).astype(int).tolist()
    layout, value_bytes = Layout.from_sizes(sizes), int(rng.choice([1, 2, 4]))
    kind = rng.choice(["normal", "ties", "nulls", "heavy", "tiny", "zero tensor"])
    values = np.abs(rng.standard_normal(layout.size))
    if kind == "ties":
        values = rng.integers(0, 4, layout.size).astype(float)
    elif kind == "nulls":
        values *= rng.random(layout.size) < 0.2
    elif kind == "heavy":
        values = np.exp(3.0 * rng.standard_normal(layout.size) - 10.0)
    elif kind == "tiny":
        values *= 1e-9
    elif kind == "zero tensor":
        values[: sizes[0]] = 0.0
    scores = layout.embed(torch.from_numpy(values.astype(np.float32)))
    empty, dense = (
        naive.upload_bytes(layout, torch.zeros_like(scores).bool(), value_bytes),
        dense_bytes(layout, value_bytes),
    )
    spare = int(rng.integers(0, 14)) if rng.random() < 0.5 else int(np.exp(rng.uniform(0, np.log(dense))))
    tolerance = float(rng.choice([0.0, 1e-4]))
    program = ProgramConfig(name="budget", budget=40 + empty + spare, gap_tolerance=tolerance)
    selection = Selector(layout, program, value_bytes=value_bytes, overhead_bytes=40).solve(scores)
    certificate = selection.certificate
    assert certificate.status in STATUSES
    assert naive.upload_bytes(layout, selection.mask, value_bytes) <= empty + spare
    assert scores[selection.mask].double().sum().item() == pytest.approx(certificate.objective, rel=1e-9, abs=0)
    assert not selection.mask[scores == 0].any()
    assert certificate.gap <= max(tolerance, 1e-6)
    return certificate


def run_fuzz(seed: int, count: int) -> None:
    for index in range(count):
        try:
            solve_drawn(seed, index)
        except Exception as error:
            raise AssertionError(f"solve_drawn(seed={seed}, index={index}) failed: {error!r}") from error


@pytest.mark.parametrize("seed", [0, secrets.randbits(32)], ids=["fixed", "fresh"])
def test_budgets_that_bind(seed: int) -> None:
    run_fuzz(seed, 150)


@pytest.mark.parametrize("reduce", [True, False])
def test_tables_alone_leave_the_empty_mask(reduce: bool) -> None:
    """12 bytes are the three block tables."""
    layout = Layout.from_sizes([2, 7, 200])
    scores = layout.embed(torch.linspace(0.1, 1.0, layout.size))
    program = ProgramConfig(name="budget", budget=40 + 12, gap_tolerance=0.0, reduce=reduce)
    selection = Selector(layout, program, value_bytes=2, overhead_bytes=40).solve(scores)
    assert not selection.mask.any()
    certificate = selection.certificate
    assert (certificate.status, certificate.upper_bound, certificate.objective) == ("optimal", 0.0, 0.0)


def test_tiny_scores_and_six_tables() -> None:
    """24 bytes are six tables; 3 more send one value: 2 bytes, and 1 of a distance. The largest is the last."""
    layout = Layout.from_sizes([3000, 30, 3, 30, 200, 30])
    scores = layout.embed(torch.linspace(1e-9, 2e-9, layout.size))
    found = []
    for spare in (0, 3):
        program = ProgramConfig(name="budget", budget=40 + 24 + spare, gap_tolerance=0.0)
        found.append(Selector(layout, program, value_bytes=2, overhead_bytes=40).solve(scores))
    assert [selection.certificate.gap for selection in found] == [0.0, 0.0]
    assert [layout.extract(selection.mask).nonzero().flatten().tolist() for selection in found] == [[], [3292]]


@pytest.mark.parametrize("reduce", [True, False])
def test_a_solver_that_says_nonsense_leaves_the_known_start(monkeypatch: pytest.MonkeyPatch, reduce: bool) -> None:
    layout = Layout.from_sizes([71, 18, 85])  # test_program.py: the best is 180, the best start 169
    scores = layout.embed(torch.cat((torch.full((71,), 8.0), torch.full((18,), 12.0), torch.full((85,), 13.0))))

    def call_infeasible(*_: object) -> None:
        raise InvalidStatusError("SCIP stopped with status 'infeasible'")

    monkeypatch.setattr(solver, "_read", call_infeasible)
    program = ProgramConfig(name="budget", budget=40 + 3 * 4 + 63, gap_tolerance=0.0, reduce=reduce)
    selection = Selector(layout, program, overhead_bytes=40).solve(scores)
    certificate = selection.certificate
    assert (certificate.status, certificate.objective) == ("solver_failed", 169.0)
    assert certificate.upper_bound == 204.75
    assert naive.upload_bytes(layout, selection.mask, 4) <= 3 * 4 + 63


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_two_thousand_budgets_that_bind() -> None:
    run_fuzz(1, 2_000)


@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("spare", [0, 6])
def test_scores_beyond_a_solver_s_infinity(reduce: bool, spare: int) -> None:
    """SCIP takes 1e20 for infinite; a client that is about to diverge has larger scores."""
    layout = Layout.from_sizes([2, 7, 200])
    scores = layout.embed(torch.linspace(1e30, 3e38, layout.size))
    program = ProgramConfig(name="budget", budget=40 + 12 + spare, gap_tolerance=0.0, reduce=reduce)
    selection = Selector(layout, program, value_bytes=2, overhead_bytes=40).solve(scores)
    assert int(selection.mask.sum()) == spare // 3  # of two bytes and a coordinate
    assert selection.certificate.status == "optimal"
