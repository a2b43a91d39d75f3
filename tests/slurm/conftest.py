"""A real SLURM cluster on this machine: one controller and one node of four CPUs, started for the session.

Two partitions: `batch`, and `urgent`, whose jobs preempt those of `batch` (REQUEUE, five seconds of grace).
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=6
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/completed.txt
ReturnToService=2
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
KillWait=2
MinJobAge=3600
SlurmctldTimeout=30
SlurmdTimeout=30
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=batch Nodes={host} Default=YES PriorityTier=1 GraceTime=5 OverSubscribe=NO
PartitionName=urgent Nodes={host} PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """Submits to the test cluster and follows jobs. Job output lands in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "FEDPURIN_PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "offline",
        }

    def sbatch(self, *arguments: str | Path, cwd: Path = REPOSITORY) -> str:
        """Submit, and return the job's id."""
        output = str(self.folder / "%x-%j.log")
        if any(str(argument).startswith("--array") for argument in arguments):
            output = str(self.folder / "%x-%A_%a.log")
        command = ["sbatch", "--parsable", f"--output={output}", *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().split(";")[0]

    def call(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

    def states(self, job: str) -> dict[str, str]:
        """The state of a job, or of each task of an array."""
        lines = self.call("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%i %T").split("\n")
        return dict(line.split() for line in lines if line)

    def wait(self, job: str, *wanted: str, timeout: float = 400) -> None:
        """Wait until every task of the job is in one of the wanted states."""
        end = time.monotonic() + timeout
        while not (states := self.states(job)) or not set(states.values()) <= set(wanted):
            assert time.monotonic() < end, f"job {job} is {states}, not {wanted}\n{self.logs(job)}"
            time.sleep(0.2)

    def logs(self, job: str) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob(f"*-{job}*.log")))

    def release(self, job: str) -> None:
        """Let a requeued job start soon instead of after SLURM's delay of two minutes.

        Not at once: slurmd dates credentials in whole seconds and refuses one of the second in which it ended the job.
        """
        end = time.monotonic() + 60
        while set(self.states(job).values()) != {"PENDING"}:
            assert time.monotonic() < end, f"job {job} is {self.states(job)}\n{self.logs(job)}"
            time.sleep(0.2)
        time.sleep(2)
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not shutil.which("slurmctld") or not shutil.which("slurmd"):
        pytest.skip("slurmctld is not installed (Debian: slurm-wlm)")
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir=tmp_path_factory.getbasetemp()))
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    host = socket.gethostname().split(".")[0]
    conf = CONF.format(
        host=host, folder=folder, user=getpass.getuser(), controller_port=free_port(), node_port=free_port()
    )
    (folder / "slurm.conf").write_text(conf)
    cluster = Cluster(folder)
    try:
        start(cluster, ["slurmctld", "-c", "-i"], ["scontrol", "ping"], "UP")
        start(cluster, ["slurmd", "-c", "-N", host], ["sinfo", "-h", "-o", "%T"], "idle")
        yield cluster
    finally:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=cluster.environment, check=False)
        for name in ("slurmd", "slurmctld"):
            stop(folder / f"{name}.pid")


def start(cluster: Cluster, daemon: list[str], probe: list[str], answer: str) -> None:
    subprocess.run(daemon, env=cluster.environment, check=True)
    end = time.monotonic() + 30
    while answer not in subprocess.run(probe, env=cluster.environment, capture_output=True, text=True).stdout:
        if time.monotonic() > end:
            pytest.skip(
                f"{daemon[0]} does not come up here: {(cluster.folder / f'{daemon[0]}.log').read_text()[-500:]}"
            )
        time.sleep(0.1)


def stop(pid_file: Path) -> None:
    """Stop a daemon by its own pid file, and wait for it."""
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    os.kill(pid, 15)
    end = time.monotonic() + 10
    while time.monotonic() < end and Path(f"/proc/{pid}").exists():
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
