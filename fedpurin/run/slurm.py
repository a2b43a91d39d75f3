"""How SLURM started this process: tasks, nodes and a port for each step, checked before anything waits.

Owns: reading SLURM's variables and refusing starts whose missing ranks nobody would start. Does not own: requeueing
(interruption.py), the processes themselves (launch.py). Imports neither torch nor lightning.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from fedpurin.config import ConfigError

FIRST_PORT, PORTS = 15000, 10000
STEPS_APART = 101  # port pairs between one job and the next


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
    if env.get("SLURM_JOB_NAME") in ("bash", "interactive"):  # a shell in an allocation: Lightning starts the ranks
        return None
    step = env.get("SLURM_STEP_ID")
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
