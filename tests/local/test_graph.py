"""Recorded cohorts. Without a GPU the recording is a plain call of the same step over the same static buffers: what is
copied in and out, which steps are recorded, and what happens where they cannot be, is the same."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedpurin.config import ConfigError
from fedpurin.federation import Federation
from fedpurin.local import graph
from fedpurin.local.cohort import CohortExecutor
from fedpurin.local.executor import SerialExecutor
from fedpurin.local.graph import GraphExecutor
from tests.local.test_cohort import ReadsTheIndex, TwoInputs, assert_same, run
from tests.methods.tiny import Plain, Tiny


def record_plainly(work: graph.Work) -> graph.Work:
    """Called once, as a capture does, without a trace in the random streams; replayed by another call."""
    with torch.random.fork_rng():
        work()
    return work


@pytest.fixture
def plain_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(graph.RECORDERS, "cpu", record_plainly)


def assert_equal(one: Federation, other: Federation) -> None:
    for client_id, client in one.clients.items():
        twin = other.clients[client_id]
        assert torch.equal(twin.vector, client.vector)
        assert client.buffers.keys() == twin.buffers.keys()
        assert all(torch.equal(twin.buffers[name], buffer) for name, buffer in client.buffers.items())
        assert all(torch.equal(twin.extra[name], vector) for name, vector in client.extra.items())
        assert twin.metrics == client.metrics


def line(caplog: pytest.LogCaptureFixture) -> str:
    return next(r.getMessage() for r in caplog.records if r.getMessage().startswith("local fits:"))


@pytest.mark.usefixtures("plain_calls")
@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fedrep", "pfedsd", "scaffold", "fedpurin"])
def test_a_recorded_cohort_has_the_bits_of_a_cohort(tmp_path: Path, method: str) -> None:
    """Clients of unequal size, batch norm, teachers and other values of the loss, one and two fits a round."""
    cohort = run(tmp_path / "cohort", method, "cohort", Tiny(), cohort=3)
    recorded = run(tmp_path / "graph", method, "graph", Tiny(), cohort=3)
    assert isinstance(recorded.executor, GraphExecutor)
    assert recorded.executor.num_replayed > 10
    assert_equal(cohort, recorded)


@pytest.mark.usefixtures("plain_calls")
def test_dropout_draws_what_it_draws_unrecorded(tmp_path: Path) -> None:
    cohort = run(tmp_path / "cohort", "fedavg", "cohort", TwoInputs(0.5), cohort=4)
    recorded = run(tmp_path / "graph", "fedavg", "graph", TwoInputs(0.5), cohort=4)
    assert recorded.executor.num_replayed > 0  # type: ignore[attr-defined]
    assert_equal(cohort, recorded)


@pytest.mark.usefixtures("plain_calls")
def test_buffers_beyond_the_most_recordings_step_unrecorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", "fedavg", "graph", Tiny(), cohort=4)
    monkeypatch.setattr(graph, "MOST_RECORDINGS", 1)
    one = run(tmp_path / "one", "fedavg", "graph", Tiny(), cohort=4)
    assert isinstance(whole.executor, GraphExecutor)
    assert isinstance(one.executor, GraphExecutor)
    assert 0 < one.executor.num_replayed < whole.executor.num_replayed
    assert len(one.executor._recordings) == 1
    assert_equal(whole, one)


class ReadsTheRound(Plain):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * (1.0 + self.round)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("plain_calls")
@pytest.mark.parametrize(
    ("module", "why"), [(ReadsTheRound, "reads round"), (ReadsTheIndex, "training_step reads batch_idx")]
)
def test_what_cannot_be_recorded_is_named_and_runs_serially(
    tmp_path: Path, module: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    federation = run(tmp_path, "local", "graph", module(), rounds=1, cohort=2)
    assert type(federation.executor) is SerialExecutor
    assert why in line(caplog)


def test_a_recorder_that_fails_before_the_first_round_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(work: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing: aten::nonzero")

    monkeypatch.setitem(graph.RECORDERS, "cpu", refuse)
    caplog.set_level(logging.INFO)
    federation = run(tmp_path, "local", "graph", Plain(), rounds=1, cohort=2)
    assert type(federation.executor) is SerialExecutor
    assert "aten::nonzero" in line(caplog)


def test_a_recorder_that_fails_later_is_named_once_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cohort = run(tmp_path / "cohort", "fedavg", "cohort", Tiny(), cohort=4)
    calls = []

    def tires(work: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("out of graphs")
        return work

    monkeypatch.setitem(graph.RECORDERS, "cpu", tires)
    recorded = run(tmp_path / "graph", "fedavg", "graph", Tiny(), cohort=4)
    assert len(calls) == 4
    assert [r.getMessage() for r in caplog.records if "not recorded" in r.getMessage()] == [
        "steps are not recorded from here on: RuntimeError: out of graphs"
    ]
    assert_equal(cohort, recorded)


@pytest.mark.usefixtures("plain_calls")
@pytest.mark.parametrize("executor", ["cohort", "graph"])
def test_a_cohort_that_does_not_fit_into_memory_halves_itself(
    tmp_path: Path, executor: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = CohortExecutor.fit_stack

    def small(self: CohortExecutor, members: Any, round_number: int) -> Any:
        if len(members) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, members, round_number)

    monkeypatch.setattr(CohortExecutor, "fit_stack", small)
    caplog.set_level(logging.INFO)
    federation = run(tmp_path, "fedavg", executor, Plain(), rounds=1, cohort=4)
    assert federation.executor.block == 2
    assert "of 2 clients, not 4, for which the device's memory does not suffice" in line(caplog)


@pytest.mark.usefixtures("plain_calls")
def test_a_client_that_does_not_fit_into_memory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: CohortExecutor, members: Any, round_number: int) -> Any:
        if round_number == -2 and len(members) != 2:  # passes the trial of two
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, members, round_number)

    real = CohortExecutor.fit_stack
    monkeypatch.setattr(CohortExecutor, "fit_stack", none)
    with pytest.raises(ConfigError, match="not one client fits into the device's memory"):
        run(tmp_path, "fedavg", "graph", Plain(), rounds=1, cohort=1)


def test_without_a_gpu_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.executor=graph needs a CUDA device, and clients train on cpu"):
        run(tmp_path, "local", "graph", Plain())


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["fedavg", "fedrep", "fedpurin"])
def test_a_cuda_graph_has_the_bits_of_a_cohort(tmp_path: Path, method: str) -> None:
    """The same kernels on the same numbers. One client after the other runs other kernels, and differs by rounding."""
    runs = {
        kind: run(
            tmp_path / kind, method, kind, TwoInputs(), accelerator="gpu", **({} if kind == "serial" else {"cohort": 3})
        )
        for kind in ("serial", "cohort", "graph")
    }
    assert runs["graph"].executor.num_replayed > 10  # type: ignore[attr-defined]
    assert_equal(runs["cohort"], runs["graph"])
    assert_same(runs["serial"], runs["graph"])


@pytest.mark.gpu
def test_a_cuda_graph_draws_new_dropout_at_every_replay(tmp_path: Path) -> None:
    cohort = run(tmp_path / "cohort", "fedavg", "cohort", TwoInputs(0.5), cohort=4, accelerator="gpu")
    recorded = run(tmp_path / "graph", "fedavg", "graph", TwoInputs(0.5), cohort=4, accelerator="gpu")
    assert_equal(cohort, recorded)
