"""Starts under SLURM: what is refused at once, what a step is told. SLURM is its variables here."""

from __future__ import annotations

import pytest

from fedpurin.config import ConfigError
from fedpurin.run.slurm import slurm_world

JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "pfl", "SLURM_NNODES": "1", "SLURM_NTASKS": "2"}


@pytest.mark.parametrize(
    ("variables", "devices", "said"),
    [
        (JOB, 2, "2 tasks and fedpurin was started without srun"),
        (JOB, 1, "2 tasks and fedpurin was started without srun"),
        (JOB | {"SLURM_STEP_ID": "0"}, 4, "trainer.devices=4 contradicts SLURM's 2 task"),
        (JOB | {"SLURM_NTASKS": "1"}, 2, "trainer.devices=2 contradicts SLURM's 1 task"),
        (JOB | {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "3", "SLURM_NNODES": "2"}, 1, "3 SLURM tasks on 2 nodes"),
    ],
)
def test_a_start_that_would_wait_for_ever_is_refused(variables: dict[str, str], devices: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        slurm_world(devices, dict(variables))


def test_ntasks_alone_is_enough_and_the_job_s_number_per_node_gives_way_to_the_step_s() -> None:
    environment = JOB | {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "8"}
    assert slurm_world("auto", environment) == (2, 2)
    assert environment["SLURM_NTASKS_PER_NODE"] == "2"


def test_a_step_on_some_of_the_job_s_nodes_meets_at_the_first_of_its_own() -> None:
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "pfl",
        "SLURM_NTASKS": "4",
        "SLURM_NNODES": "2",
        "SLURM_NODELIST": "n[1-3]",
    }
    environment = job | {"SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "n[2-3]"}
    assert slurm_world("auto", environment) == (2, 2)
    assert environment["SLURM_NODELIST"] == "n[2-3]"


def test_two_steps_of_one_allocation_have_ports_of_their_own() -> None:
    steps = [JOB | {"SLURM_STEP_ID": step} for step in ("0", "1")]
    for step in steps:
        slurm_world(2, step)
    assert [step["MASTER_PORT"] for step in steps] == ["16622", "16624"]


@pytest.mark.parametrize("variables", [{}, {"SLURM_JOB_ID": "1"}, JOB | {"SLURM_JOB_NAME": "interactive"}])
def test_elsewhere_the_options_decide(variables: dict[str, str]) -> None:
    assert slurm_world(2, dict(variables)) is None
