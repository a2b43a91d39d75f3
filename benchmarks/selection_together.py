"""The programs of many small clients: one statement and one call of the solver for all, against one each.

    python -m benchmarks.selection_together                # 100 clients; `budget` with 4, stopped after a minute

The clients have the small CNN of the digits. `layerwise` and `global` are `Selector.solve_many` against `Selector.solve`.
`budget` is solved apart, and this shows why: its cores as they reach the solver, side by side in one statement of the same
constraints, against one call each. Seconds of this process's CPU time, so that other work matters less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from fedpurin.config import ProgramConfig
from fedpurin.selection import Selector
from fedpurin.selection.budget import core
from fedpurin.selection.solver import solve_statement
from fedpurin.space import Layout, ParameterSpace
from lightning_modules.backbones import cnn

PAIRS = 3


def draw(layout: Layout, num_clients: int) -> Tensor:
    """Heavy-tailed scores, a row a client."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(num_clients, layout.length, generator=generator) ** 6 * layout.parameter_mask()


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(name: Any, layout: Layout, num_clients: int) -> None:
    selector, rows = Selector(layout, ProgramConfig(name=name)), draw(layout, num_clients)
    selector.solve_many(rows), selector.solve(rows[0])  # compiles the statements
    for _ in range(PAIRS):
        together = cpu_seconds(lambda: selector.solve_many(rows))
        apart = cpu_seconds(lambda: [selector.solve(row) for row in rows])
        print(f"{name}, {num_clients} clients: {together:.2f} s together, {apart:.2f} s apart, {together / apart:.2f}")


def compare_budget(layout: Layout, num_clients: int, budget: float, limit: float) -> None:
    """Every client's first core, with the gap that it is to be closed to."""
    cores: list[tuple[dict[str, Any], tuple[int, ...], int, float]] = []
    shapes: list[tuple[int, tuple[int, ...]]] = []
    arrange = core._arrange
    apart = [0.0]

    def arranged(instance: Any) -> Any:
        slots = arrange(instance)
        shapes.append((len(instance.curves), core._widths(slots)))
        return slots

    def solved(problem: Any, solver: str, **options: Any) -> Any:
        numbers = {parameter.name(): np.atleast_1d(parameter.value) for parameter in problem.parameters()}
        num_tensors, widths = shapes[-1]
        cores.append((numbers, widths, num_tensors, options["absolute_gap"]))
        start = time.process_time()
        outcome = solve_statement(problem, solver, **options)
        apart[0] += time.process_time() - start
        return outcome

    selector = Selector(layout, ProgramConfig(name="budget", budget=budget))
    rows = draw(layout, num_clients)
    selector.solve(rows[0])  # compiles the statement
    with mock.patch.object(core, "_arrange", arranged), mock.patch.object(core, "solve_statement", solved):
        for row in rows:
            selector.solve(row)
    problem = side_by_side(cores)
    gap, outcome = min(gap for *_, gap in cores), []
    together = cpu_seconds(
        lambda: outcome.append(solve_statement(problem, "SCIP", absolute_gap=gap, time_limit=limit, is_core=True))
    )
    end = "" if outcome[0].is_finished else f", stopped after {limit:.0f} s without a proof"
    print(f"budget, {num_clients} clients, {len(cores)} cores: {together:.2f} s together{end}, {apart[0]:.2f} s apart")


def side_by_side(cores: Sequence[tuple[dict[str, Any], tuple[int, ...], int, float]]) -> Any:
    """`state_budget` with a capacity for each core (selection/programs.py has the single one)."""
    tensor, client, num_tensors = [], [], 0
    widths = np.concatenate([widths for _, widths, _, _ in cores])
    for index, (_, own, count, _) in enumerate(cores):
        tensor.append(np.arange(len(own)) // (len(own) // count) + num_tensors)
        client.append(np.full(len(own), index))
        num_tensors += count
    choices = np.arange(len(widths))
    item = np.repeat(choices, widths)
    number = {name: np.concatenate([numbers[name] for numbers, *_ in cores]) for name in cores[0][0]}

    def sum_by(groups: Any, count: int) -> Any:
        return sp.csr_array((np.ones(len(groups)), (groups, np.arange(len(groups)))), shape=(count, len(groups)))

    x, unused = cp.Variable(len(item), bounds=[0, None]), cp.Variable(len(cores), bounds=[0, None])
    y, k = cp.Variable(len(widths), boolean=True), cp.Variable(len(widths), integer=True, bounds=[0, None])
    charged = cp.multiply(number["fixed"], y) + cp.multiply(number["per_value"], k)
    return cp.Problem(
        cp.Maximize(number["score"] @ x + number["base"] @ y - number["price"] @ unused),
        [
            sum_by(np.concatenate(tensor), num_tensors) @ y == 1,
            y <= number["allowed"],
            sum_by(item, len(widths)) @ x == k,
            k <= cp.multiply(number["span"], y),
            x <= cp.multiply(number["size"], y[item]),
            sum_by(np.concatenate(client), len(cores)) @ charged + unused == number["capacity"],
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--budget-clients", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument(
        "--budget", type=float, default=0.2, help="a fraction of the dense bytes (default: %(default)s)"
    )
    parser.add_argument("--limit", type=float, default=60.0, help="seconds (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    layout = ParameterSpace(cnn(10), lambda segment: True).shared
    for name in ("layerwise", "global"):
        compare(name, layout, arguments.clients)
    compare_budget(layout, arguments.budget_clients, arguments.budget, arguments.limit)


if __name__ == "__main__":
    main()
