"""What a solver's end means: a program that cannot be infeasible, and one that was stopped, are told apart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fedpurin.config import ProgramConfig
from fedpurin.selection import Selector
from fedpurin.selection.solver import InvalidStatusError, Outcome, SolverError, _read
from fedpurin.space import Layout


@pytest.mark.parametrize(
    ("solver", "raw", "kind", "message"),
    [
        (
            "SCIP",
            {"model": None, "scip_status": "infeasible"},
            InvalidStatusError,
            "SCIP stopped with status 'infeasible'",
        ),
        ("SCIP", {"model": None, "scip_status": "memlimit"}, SolverError, "SCIP stopped with status 'memlimit'"),
        (
            "HIGHS",
            {"model_status": "kUnbounded", "info": None},
            InvalidStatusError,
            "HIGHS stopped with status 'kUnbounded'",
        ),
        (
            "HIGHS",
            {"model_status": "kSolveError", "info": None},
            SolverError,
            "HIGHS stopped with status 'kSolveError'",
        ),
    ],
)
def test_an_end_without_an_answer_is_an_error(solver: str, raw: object, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        _read(solver, raw)
    assert caught.type is kind


def test_highs_at_its_time_limit_leaves_a_bound() -> None:
    raw = {"model_status": "kTimeLimit", "info": SimpleNamespace(mip_dual_bound=-4.5), "run_time": 2.0}
    assert _read("HIGHS", raw) == Outcome(
        has_solution=False, is_finished=False, upper_bound=4.5, building_seconds=0.0, solver_seconds=2.0
    )


@pytest.mark.parametrize("solver", ["HIGHS", "SCIPY"])
@pytest.mark.parametrize("name", ["layerwise", "global"])
def test_other_mixed_integer_solvers_select_the_same(solver: str, name: str) -> None:
    """SCIPY stands for those of which nothing is known beyond CVXPY's own status."""
    layout = Layout.from_sizes([40, 7, 90])
    scores = torch.zeros(layout.length)
    draw = torch.Generator().manual_seed(3)
    for segment in layout:
        scores[segment.slice] = torch.rand(segment.size, generator=draw)
    by = {
        which: Selector(layout, ProgramConfig(name=name, tau=0.3, solver=which)).solve(scores)  # type: ignore[arg-type]
        for which in ("SCIP", solver)
    }
    assert torch.equal(by[solver].mask, by["SCIP"].mask)
    assert by[solver].certificate.gap == 0.0
    assert by[solver].certificate.num_selected == (12 + 2 + 27 if name == "layerwise" else 41)
