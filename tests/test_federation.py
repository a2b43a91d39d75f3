"""The round loop: which rounds measure, and that whatever ends a run says where it happened."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from torch import Tensor

from fedpurin.federation import RunError
from tests.methods.tiny import Plain, simulate


class FailsInTheSecondRound(Plain):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if self.round == 1:
            raise ValueError("out of luck")
        return super().training_step(batch, batch_idx)


class DivergesInTheSecondRound(Plain):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.round == 1 else loss


def test_every_second_round_and_the_last_are_measured(tmp_path: Path) -> None:
    result = simulate(tmp_path, "method=fedpurin", "trainer.evaluate_every=2", "trainer.rounds=4", module=Plain())
    for variant in ("personalized", "sparse", "merged"):
        assert [f"accuracy/{variant}" in record for record in result.history] == [True, False, True, True]
    with (tmp_path / "clients.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = [
        sum(row["round"] == str(number) and row["accuracy/personalized"] != "" for row in rows) for number in range(4)
    ]
    assert measured == [4, 0, 4, 4]


def test_a_failure_in_a_client_says_rank_client_round_and_stage(tmp_path: Path) -> None:
    where = r"^rank 0, client 0, round 2, local training: ValueError: out of luck$"
    with pytest.raises(RunError, match=where):
        simulate(tmp_path, "method=local", "trainer.executor=serial", module=FailsInTheSecondRound())


def test_a_client_that_diverges_ends_the_run_where_that_is_asked_for(tmp_path: Path) -> None:
    said = r"^client 0 diverged in round 2: .*; trainer\.on_divergence=stop ends the run$"
    with pytest.raises(RunError, match=said):
        simulate(tmp_path, "method=local", "trainer.on_divergence=stop", module=DivergesInTheSecondRound())
