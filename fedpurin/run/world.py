"""Who started this process, and how many beside it: torchrun, srun, fedpurin itself, or something that it does not know.

Owns: reading the starters' variables, a port for each srun step, refusing starts whose missing ranks nobody would start and
those whose ranks would each do the whole run. Does not own: requeueing (interruption.py), the processes themselves
(launch.py). Imports neither torch nor lightning.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence

from fedpurin.config import ConfigError

OTHER_STARTERS = {
    "OMPI_COMM_WORLD_SIZE": ("mpirun", "OMPI_COMM_WORLD_RANK"),
    "MV2_COMM_WORLD_SIZE": ("mpirun", "MV2_COMM_WORLD_RANK"),
    "PMI_SIZE": ("mpiexec", "PMI_RANK"),
    "JSM_NAMESPACE_SIZE": ("jsrun", "JSM_NAMESPACE_RANK"),
    "FLUX_JOB_SIZE": ("flux", "FLUX_TASK_RANK"),
    "WORLD_SIZE": ("the variable WORLD_SIZE", "RANK"),
}
"""How many processes a starter says there are, its name, and where the process's own number stands."""
OWN_RANKS = "FEDPURIN_RANKS"
"""Set by the launcher of our own (launch.py), for itself and for the ranks that it starts."""
FIRST_PORT, PORTS = 15000, 10000
STEPS_APART = 101  # port pairs between one job and the next


def external_world(
    devices: int | str, num_nodes: int = 1, environment: MutableMapping[str, str] | None = None
) -> tuple[int, int] | None:
    """Processes a node and nodes that torchrun or srun has started; None where fedpurin starts its own.

    Raises:
        ConfigError: the options contradict what was started, or ranks would not know of each other.
    """
    env = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in env:
        local = int(env["LOCAL_WORLD_SIZE"])
        nodes = int(env["WORLD_SIZE"]) // local
        if isinstance(devices, int) and devices not in (1, local):
            raise ConfigError(
                f"trainer.devices={devices} contradicts torchrun's {local} process(es) a node: start with "
                f"`torchrun --nproc-per-node {devices}`, or set trainer.devices={local}"
            )
        world: tuple[int, int] | None = (local, nodes)
    else:
        world = slurm_world(devices, env)
        _check_starter(world, env)
    if num_nodes not in (1, world[1] if world else 1):
        has = f"{world[1]} node(s) were started" if world else "fedpurin by itself starts processes of one node"
        raise ConfigError(
            f"trainer.num_nodes={num_nodes} and {has}: start with `torchrun --nnodes={num_nodes} ...` on every node, or with "
            f"`srun --nodes={num_nodes} fedpurin ...`"
        )
    return world


def check_sweep_devices(jobs: Sequence[Sequence[str]]) -> None:
    """Refuse a sweep in this process whose runs have different numbers of ranks: each rank runs the whole sweep.

    Raises:
        ConfigError: they have.
    """
    option = "trainer.devices="
    asked = {item.removeprefix(option) for job in jobs for item in job if item.startswith(option)}
    if len(asked) > 1:
        raise ConfigError(
            f"{option}{','.join(sorted(asked))} in one sweep is not possible, because its ranks run the whole sweep: start "
            "one for each number (the result is the same on any)"
        )


def _check_starter(world: tuple[int, int] | None, env: Mapping[str, str]) -> None:
    """Refuse several processes of a starter that tells them nothing fedpurin could meet by: each would do the whole run."""
    if OWN_RANKS in env:
        return
    started = 1 if world is None else world[0] * world[1]
    for variable, (starter, rank) in OTHER_STARTERS.items():
        size = env.get(variable, "1")
        if world is not None and variable == "WORLD_SIZE":  # srun's own variables decide
            continue
        if size.isdigit() and int(size) not in (1, started):
            raise ConfigError(
                f"{starter} says that this is process {env.get(rank, '0')} of {size}, and each would do the whole run by "
                f"itself: start with `torchrun --nproc-per-node {size} -m fedpurin ...`, `srun fedpurin ...` or `fedpurin "
                f"trainer.devices={size}`, without {starter}"
            )
    for variable in ("RANK", "LOCAL_RANK", *(["SLURM_PROCID"] if "SLURM_STEP_ID" in env else [])):
        if world is None and env.get(variable, "0") != "0":
            raise ConfigError(
                f"the variable {variable}={env[variable]} says that other processes belong to this one, and neither torchrun "
                "nor srun has started it: unset it, or start with `torchrun -m fedpurin ...`"
            )


def slurm_world(devices: int | str, environment: MutableMapping[str, str] | None = None) -> tuple[int, int] | None:
    """Tasks a node and nodes of this srun step; None where SLURM does not decide the processes.

    Makes `SLURM_NTASKS_PER_NODE` and `SLURM_NODELIST` say what the step has, because Lightning reads the job's (its ranks
    would wait for each other at a node that is not theirs), and gives the step a port.

    Raises:
        ConfigError: several tasks and no srun, tasks that differ between nodes, devices that contradict the tasks.
    """
    env = os.environ if environment is None else environment
    if "SLURM_NTASKS" not in env or "TORCHELASTIC_RUN_ID" in env:
        return None
    step = env.get("SLURM_STEP_ID")
    if env.get("SLURM_JOB_NAME") in ("bash", "interactive"):  # a shell in an allocation: fedpurin starts the ranks
        if step is None or int(env.get("SLURM_STEP_NUM_TASKS", "1")) == 1 or "SLURM_PTY_PORT" in env:
            return None
        env["SLURM_JOB_NAME"] = "fedpurin"  # srun typed into that shell, which Lightning takes for the shell itself
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", env["SLURM_NTASKS"]) if step else env["SLURM_NTASKS"])
    if step is None and tasks > 1:
        raise ConfigError(
            f"this SLURM job has {tasks} tasks and fedpurin was started without srun, so nobody starts the others: "
            "write `srun fedpurin ...` in the job script, or ask for one task (--ntasks=1)"
        )
    nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", "1")) if step and tasks > 1 else 1)
    if tasks % nodes:
        raise ConfigError(
            f"{tasks} SLURM tasks on {nodes} nodes is not possible: every node needs the same number "
            "(--ntasks-per-node instead of --ntasks)"
        )
    local = tasks // nodes
    if isinstance(devices, int) and devices not in (1, local):
        raise ConfigError(
            f"trainer.devices={devices} contradicts SLURM's {local} task(s) a node: start with "
            f"`srun --ntasks-per-node={devices}`, or set trainer.devices={local}"
        )
    env["SLURM_NTASKS_PER_NODE"] = str(local)
    if "SLURM_STEP_NODELIST" in env:
        env["SLURM_NODELIST"] = env["SLURM_STEP_NODELIST"]
    if step is not None and tasks > 1:
        pair = (int(env.get("SLURM_JOB_ID", "0")) * STEPS_APART + int(step)) % (PORTS // 2)
        env.setdefault("MASTER_PORT", str(FIRST_PORT + 2 * pair))  # the next one is the folder's (folder.py)
    return local, nodes
