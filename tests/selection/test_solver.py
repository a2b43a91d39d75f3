"""What a solver's end means: a program that cannot be infeasible, and one that was stopped, are told apart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fedpurin.selection.solver import InvalidStatusError, Outcome, SolverError, _read


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
