"""A module's epoch, step and round count on from round to round, also after a resume, and not in a cohort."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedpurin.config import ConfigError
from fedpurin.federation import Federation
from fedpurin.local.cohort import CohortExecutor
from fedpurin.local.executor import SerialExecutor
from fedpurin.run.build import build
from tests.methods.tiny import TEST, TRAIN, Plain, composed

SEEN: list[tuple[int, int, int]] = []


class Counts(Plain):
    def on_train_epoch_start(self) -> None:
        SEEN.append((self.round, self.current_epoch, self.global_step))


class Decays(Plain):
    """Reads the epoch where no look at training_step's own names finds it."""

    def weight(self) -> float:
        return 0.5**self.current_epoch

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * self.weight()


class ByRound(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * 0.5**self.round


def built(folder: Path, module: Plain, **trainer: Any) -> Federation:
    config = composed("local")
    config = replace(config, checkpoint=replace(config.checkpoint, every=1), resume="auto")
    return build(
        replace(config, trainer=replace(config.trainer, **trainer)), folder, module=module, train=TRAIN, test=TEST
    )


def test_counts_go_on_over_rounds_and_a_resume(tmp_path: Path) -> None:
    federation = built(tmp_path, Counts(), rounds=2)
    SEEN.clear()  # of the trial before the start
    federation.run()
    batches = federation.trainer.num_batches(federation.clients[0])
    assert SEEN[:2] == [(0, 0, 0), (0, 1, batches)]
    assert SEEN[8:10] == [(1, 2, 2 * batches), (1, 3, 3 * batches)], "four clients of two epochs a round"
    federation = built(tmp_path, Counts(), rounds=3)
    SEEN.clear()
    federation.run()
    assert SEEN[:2] == [(2, 4, 4 * batches), (2, 5, 5 * batches)]


def test_who_reads_the_epoch_is_fitted_alone(tmp_path: Path) -> None:
    assert type(built(tmp_path / "a", Decays(), cohort=2).executor) is SerialExecutor
    with pytest.raises(ConfigError, match="it reads current_epoch, which clients that run together"):
        built(tmp_path / "b", Decays(), executor="cohort", cohort=2)


def test_the_round_is_the_same_for_a_cohort(tmp_path: Path) -> None:
    cohort, serial = (
        built(tmp_path / name, ByRound(), executor=name, cohort=size, rounds=3)
        for name, size in (("cohort", 2), ("serial", "auto"))
    )
    assert type(cohort.executor) is CohortExecutor
    losses = [[record["loss/train"] for record in federation.run()] for federation in (cohort, serial)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][2] < losses[0][0] / 3, "a quarter of the weight"


def test_names_of_the_users_own_win(tmp_path: Path) -> None:
    class Own(Plain):
        def round(self) -> str:
            return "mine"

    module = built(tmp_path, Own()).trainer.module
    assert module.round() == "mine"
    assert module.current_epoch == 0


def test_cohorts_count_too(tmp_path: Path) -> None:
    federation = built(tmp_path, Plain(), executor="cohort", cohort=4)
    federation.run()
    for client in federation.clients.values():
        assert (client.epochs, client.steps) == (4, 4 * federation.trainer.num_batches(client))
