"""A sweep of synthetic runs and the report made from it, once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpurin.cli.report import main
from tests.report.synthetic import Spec, write_run

SPECS = [
    *(Spec(method, seed) for method in ("local", "fedavg", "fedpurin") for seed in (1, 2)),
    *(Spec("fedpurin_recommended", seed, options={"program.tau": tau}) for tau in (0.1, 0.5) for seed in (1, 2)),
]


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten runs: three methods and a fourth at two densities, two seeds each."""
    root = tmp_path_factory.mktemp("sweep")
    for index, spec in enumerate(SPECS):
        write_run(root / str(index), spec)
    (root / "multirun.yaml").touch()
    return root


@pytest.fixture(scope="session")
def report(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command wrote for `sweep`."""
    out = tmp_path_factory.mktemp("report")
    assert main([str(sweep), "--out", str(out)]) == 0
    return out
