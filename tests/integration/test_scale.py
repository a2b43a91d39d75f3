"""A thousand clients on one machine, from the command line: trained, saved, resumed within its memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_resume import read_clients, read_metrics

OPTIONS = [
    "data=fashion_mnist", "model=resnet8", "partition.num_clients=1000", "partition.train_per_client=10",
    "partition.test_per_client=5", "trainer.batch_size=10", "trainer.local_epochs=1", "trainer.accelerator=cpu",
    "checkpoint.every=1", "trainer.rounds=1",
]  # fmt: skip
MAX_GIB = 12.0  # 4.6 GiB of models; 24 GiB are allowed


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/usr/share/datasets/fashion-mnist").exists(), reason="dataset-fashion-mnist is missing")
def test_a_thousand_clients_of_a_million_parameters_train_and_resume(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedpurin"]
    subprocess.run([*command, *OPTIONS, f"hydra.run.dir={tmp_path}"], check=True)
    subprocess.run([*command, "resume", str(tmp_path), "trainer.rounds=2"], check=True)
    assert [record["clients/participating"] for record in read_metrics(tmp_path)] == [1000, 1000]
    assert len(read_clients(tmp_path)) == 2000
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20 < MAX_GIB
