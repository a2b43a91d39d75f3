"""Starts under SLURM: what is refused at once, what a step is told. SLURM is its variables here."""

from __future__ import annotations

import pytest

from fedpurin.config import ConfigError
from fedpurin.run.world import check_sweep_devices, external_world, slurm_world

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


def test_srun_typed_into_a_shell_of_an_allocation_is_a_step() -> None:
    shell = JOB | {"SLURM_JOB_NAME": "interactive"}
    step = shell | {"SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "2"}
    assert external_world(1, environment=step) == (2, 1)
    assert step["SLURM_JOB_NAME"] == "fedpurin"
    assert external_world(2, environment=shell | {"SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "1"}) is None


TORCHRUN = {"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "RANK": "1", "LOCAL_RANK": "1"}
STEP = JOB | {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1"}


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "said"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, 1, 1, "mpirun says that this is process 1 of 2"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, 2, 1, "mpirun says that this is process 0 of 2"),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, 1, 1, "mpiexec says that this is process 3 of 4"),
        (JOB | {"SLURM_NTASKS": "1", "SLURM_STEP_ID": "0", "PMI_SIZE": "2"}, 1, 1, "mpiexec says that this is process 0 of"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, 1, 1, "the variable WORLD_SIZE says that this is process 0 of 2"),
        ({"LOCAL_RANK": "1"}, 1, 1, "the variable LOCAL_RANK=1 says that other processes belong to this one"),
        ({}, 1, 2, "trainer.num_nodes=2 and fedpurin by itself starts processes of one node"),
        (STEP, 1, 2, r"trainer.num_nodes=2 and 1 node\(s\) were started"),
        (TORCHRUN, 4, 1, r"trainer.devices=4 contradicts torchrun's 2 process\(es\) a node"),
    ],
)  # fmt: skip
def test_ranks_that_would_not_know_of_each_other_are_refused(
    variables: dict[str, str], devices: int, nodes: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        external_world(devices, nodes, dict(variables))


@pytest.mark.parametrize(
    ("variables", "world"),
    [
        (TORCHRUN, (2, 2)),
        (STEP | {"PMI_SIZE": "2", "PMI_RANK": "1", "WORLD_SIZE": "16"}, (2, 1)),
        (TORCHRUN | {"OMPI_COMM_WORLD_SIZE": "2"}, (2, 2)),
        ({"OMPI_COMM_WORLD_SIZE": "1", "WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"FEDPURIN_RANKS": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, None),
    ],
)
def test_ranks_that_meet_are_left_alone(variables: dict[str, str], world: tuple[int, int] | None) -> None:
    assert external_world("auto" if world else 2, environment=dict(variables)) == world


def test_the_runs_of_a_sweep_have_one_number_of_ranks() -> None:
    check_sweep_devices([["seed=1", "trainer.devices=2"], ["seed=2", "trainer.devices=2"]])
    with pytest.raises(ConfigError, match=r"trainer\.devices=1,2 in one sweep is not possible"):
        check_sweep_devices([["trainer.devices=1"], ["trainer.devices=2"]])
