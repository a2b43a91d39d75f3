"""A real SLURM cluster on this machine: one controller and two nodes of four CPUs, started for the session.

Every node is a `slurmd -N NAME` with a port and a spool folder of its own. Two partitions: `batch`, and `urgent`, whose
jobs preempt those of `batch` (REQUEUE, two minutes of grace).
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.slurm.gate import RUN, free_ports, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]

NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 State=UNKNOWN"
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=6
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
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
FirstJobId={first_job}
SlurmctldTimeout=300
SlurmdTimeout=300
{nodes}
PartitionName=batch Nodes=ALL Default=YES PriorityTier=1 GraceTime=120 OverSubscribe=NO
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """Submits to the test cluster and follows jobs. Job output lands in `folder`."""

    def __init__(self, folder: Path, nodes: Sequence[str]) -> None:
        self.folder, self.nodes = folder, list(nodes)
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "FEDPURIN_PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "offline",
        }

    def start_node(self, name: str) -> None:
        probe = ["sinfo", "-h", "-n", name, "-o", "%T"]
        start(self, ["slurmd", "-c", "-N", name], probe, "idle", f"slurmd-{name}.log")

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

    def wait(self, job: str, *wanted: str, timeout: float = 600) -> None:
        """Wait until every task of the job is in one of the wanted states."""
        end = time.monotonic() + timeout
        while not (states := self.states(job)) or not set(states.values()) <= set(wanted):
            assert time.monotonic() < end, f"job {job} is {states}, not {wanted}\n{self.logs(job)}"
            time.sleep(0.2)

    def kill_node(self, name: str, job: str) -> None:
        """What is left of a node without power: no slurmd, and none of the job's tasks there."""
        (index,) = [i for i, node in enumerate(self.nodes) if node == name]
        wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_NODEID={index}".encode()}
        tasks = {pid for pid in processes() if wanted <= environment_of(pid)}
        assert tasks
        parents = {parent_of(pid) for pid in tasks} - tasks  # slurmstepd
        daemon = int((self.folder / f"slurmd-{name}.pid").read_text())
        for pid in [daemon, *parents, *tasks]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait_until_said(self, job: str, text: str) -> None:
        wait_until(lambda: text in self.logs(job), lambda: f"job {job} is {self.states(job)}\n{self.logs(job)}")

    def logs(self, job: str) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob(f"*-{job}*.log")))

    def release(self, job: str) -> None:
        """Let a requeued job start soon instead of after SLURM's delay of two minutes.

        Not at once: slurmd dates credentials in whole seconds and refuses one of the second in which it ended the job.
        """
        end = time.monotonic() + 300
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
    host = socket.gethostname().split(".")[0]
    # The first node of a job is where its ranks meet: a name that can be looked up.
    names = [host, f"{host}-b"]
    ports = free_ports(3)
    nodes = [NODE.format(name=name, host=host, port=port) for name, port in zip(names, ports, strict=False)]
    conf = CONF.format(
        host=host, folder=folder, user=getpass.getuser(), controller_port=ports[-1], nodes="\n".join(nodes),
        first_job=1 + os.getpid() % 5000,  # a job's number decides its port; other people test on this machine, too
    )  # fmt: skip
    (folder / "slurm.conf").write_text(conf)
    cluster = Cluster(folder, names)
    try:
        start(cluster, ["slurmctld", "-c", "-i"], ["scontrol", "ping"], "UP", "slurmctld.log")
        for name in names:
            cluster.start_node(name)
        yield cluster
    finally:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=cluster.environment, check=False)
        for name in names:
            stop(folder / f"slurmd-{name}.pid")
        stop(folder / "slurmctld.pid")


@pytest.fixture(scope="session")
def whole(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts, on one process."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    job = slurm.sbatch("slurm/train.sbatch", *RUN, f"hydra.run.dir={folder}")
    slurm.wait(job, "COMPLETED")
    return folder


def start(cluster: Cluster, daemon: list[str], probe: list[str], answer: str, log: str) -> None:
    subprocess.run(daemon, env=cluster.environment, check=True)
    end = time.monotonic() + 60
    while answer not in subprocess.run(probe, env=cluster.environment, capture_output=True, text=True).stdout:
        if time.monotonic() > end:
            pytest.skip(f"{daemon[0]} does not come up here: {(cluster.folder / log).read_text()[-500:]}")
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


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def environment_of(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:  # it has ended, or is another user's
        return set()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
