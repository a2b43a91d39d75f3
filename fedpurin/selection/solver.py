"""Solving a stated program with a mixed-integer solver that CVXPY knows, and reading its answer with suspicion.

Owns solver options, statuses and bounds: a value is used only after the status allows it, and a bound is taken only
from solvers known to give a valid one. Does not own the programs.
"""

from __future__ import annotations

import re
import time
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import cvxpy as cp
from cvxpy.reductions.solvers.defines import INSTALLED_MI_SOLVERS

from fedpurin.config import ConfigError

# Absolute and relative. At SCIP's 1e-6 a solution may miss a budget of 10^7 bytes by 10; below 1e-7 its LP solver
# complains. Answers are checked in integers anyway.
_FEASIBILITY = 1e-7


class SolverError(RuntimeError):
    """The solver failed, or gave an answer that its own status or the constraints contradict."""


class InvalidStatusError(SolverError):
    """The solver called a program infeasible or unbounded that has a known solution and a known bound."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a solver said. Its variables' values are in the statement where `has_solution`."""

    has_solution: bool
    is_finished: bool
    """False where a time limit stopped it."""
    upper_bound: float
    """Of the objective; infinite where the solver does not tell."""
    building_seconds: float
    solver_seconds: float


def require_installed(solver: str) -> None:
    """Raise a ConfigError unless CVXPY finds this solver, and it handles integers."""
    capable = [name for name in cp.installed_solvers() if name in INSTALLED_MI_SOLVERS]
    if solver not in capable:
        raise ConfigError(
            f"program.solver={solver!r} is not an installed mixed-integer solver; there are {', '.join(capable)}"
            + (" (pip install pyscipopt)" if solver == "SCIP" else "")
        )


def solve_statement(problem: Any, solver: str, *, absolute_gap: float, time_limit: float, is_core: bool) -> Outcome:
    """Solve a maximisation whose parameters are set.

    Args:
        absolute_gap: in units of the objective; the solver may stop at it. 0 asks for proven optimality.
        time_limit: seconds.
        is_core: small, and a good solution is known already: leave out what looks for one, and what pays late.

    Raises:
        InvalidStatusError: the solver calls the program infeasible or unbounded, or refuses its numbers.
        SolverError: the solver fails.
    """
    start = time.perf_counter()
    options = _options(solver, absolute_gap, min(max(time_limit, 1e-3), 1e9), is_core)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "may be inaccurate" at a limit: Outcome says so
            data, chain, inverse = problem.get_problem_data(solver)
            raw = chain.solve_via_data(problem, data, warm_start=False, verbose=False, solver_opts=options)
            outcome = _read(solver, raw)
            if outcome.has_solution:
                problem.unpack_results(raw, chain, inverse)
    except (cp.SolverError, ValueError, KeyError, ImportError, MemoryError) as error:
        raise SolverError(f"{solver} failed: {str(error).splitlines()[0] if str(error) else error!r}") from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise InvalidStatusError(str(error)) from error  # SCIP refuses a number that is infinite to it
    total = time.perf_counter() - start
    solver_seconds = min(outcome.solver_seconds, total)
    return Outcome(
        outcome.has_solution, outcome.is_finished, outcome.upper_bound, total - solver_seconds, solver_seconds
    )


def _options(solver: str, absolute_gap: float, time_limit: float, is_core: bool) -> dict[str, Any]:
    if solver == "SCIP":
        return {
            "scip_params": {
                "limits/absgap": absolute_gap,
                "limits/gap": 0.0,
                "limits/time": time_limit,
                "numerics/feastol": _FEASIBILITY,
                "misc/catchctrlc": False,  # the interrupt belongs to the run
                **(_scip_core_settings() if is_core else {}),
            }
        }
    if solver == "HIGHS":
        return {
            "mip_abs_gap": absolute_gap,
            "mip_rel_gap": 0.0,
            "time_limit": time_limit,
            "mip_feasibility_tolerance": _FEASIBILITY,
            "primal_feasibility_tolerance": _FEASIBILITY,
            "threads": 1,
        }
    return {}


@cache
def _scip_core_settings() -> dict[str, Any]:
    """No restarts, no cuts, and of the heuristics only those that round: the rest took nine tenths of the time."""
    from pyscipopt import Model

    heuristics = [name for name in Model().getParams() if re.fullmatch(r"heuristics/\w+/freq", name)]
    rounding = ("simplerounding", "rounding", "zirounding", "shifting", "intshifting")
    return {
        "presolving/maxrestarts": 0,
        "separating/maxrounds": 0,
        "separating/maxroundsroot": 0,
        **{name: 1 if name.split("/")[1] in rounding else -1 for name in heuristics},
    }


def _read(solver: str, raw: Any) -> Outcome:
    """What the solver reports, before any value is looked at. CVXPY minimises −objective."""
    if solver == "SCIP":
        model, status = raw["model"], raw["scip_status"]
        if status in ("infeasible", "unbounded", "inforunbd"):
            raise InvalidStatusError(f"SCIP stopped with status {status!r}")
        if status not in ("optimal", "gaplimit", "timelimit"):
            raise SolverError(f"SCIP stopped with status {status!r}")
        return Outcome("primal" in raw, status != "timelimit", -model.getDualbound(), 0.0, model.getSolvingTime())
    if solver == "HIGHS":
        status, info = raw["model_status"], raw["info"]
        if status in ("kInfeasible", "kUnbounded", "kUnboundedOrInfeasible"):
            raise InvalidStatusError(f"HIGHS stopped with status {status!r}")
        if status not in ("kOptimal", "kTimeLimit"):
            raise SolverError(f"HIGHS stopped with status {status!r}")
        is_finished = status == "kOptimal"
        return Outcome(is_finished, is_finished, -info.mip_dual_bound, 0.0, raw["run_time"])
    return Outcome(True, True, float("inf"), 0.0, 0.0)
