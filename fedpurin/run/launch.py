"""How processes come to be: Lightning Fabric with a strategy that leaves the clients' module alone.

Plain `python` (Fabric starts the other processes, which are watched here), torchrun and srun are all detected by
Fabric's environments. Does not own collectives: those are in `exchange/`.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from lightning import Fabric
from lightning.fabric.accelerators import CUDAAccelerator
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import nn

from fedpurin.config import ConfigError, TrainerConfig
from fedpurin.exchange import rendezvous
from fedpurin.exchange.peers import wake_when_parent_ends
from fedpurin.run import starting
from fedpurin.run.interruption import SIGNALS
from fedpurin.run.lock import is_first_process
from fedpurin.run.world import OWN_RANKS, external_world

log = logging.getLogger(__name__)

MIN_CPU_PROCESSES = 8  # a laptop may run this many ranks on fewer cores, slower, to check that nothing changes
START_SECONDS = 1800.0  # for every process to come up, and the first of them to download data
START_GRACE_SECONDS = 30.0  # until the process group exists, nothing but this module notices that a rank is lost
END_GRACE_SECONDS = 60.0
FAILED_GRACE_SECONDS = 10.0  # for what still waits in a collective with this rank
POLL_SECONDS = 0.05


class PatientLauncher(_SubprocessScriptLauncher):
    """Starts the other ranks of this machine; when one is lost, the run may say so before it ends.

    Lightning's own launcher kills every rank within five seconds. Here a collective fails and names the lost rank, the
    run records it, and only what still hangs after the collective's time-out is killed.
    """

    def __init__(self, *arguments: Any, timeout_seconds: float) -> None:
        super().__init__(*arguments)
        self.timeout_seconds = timeout_seconds
        self._leaves = self._grouped = False

    def launch(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.cluster_environment.creates_processes_externally:
            os.environ[OWN_RANKS] = str(self.num_processes)
            self._call_children_scripts()
            atexit.register(self._end_children)
            starting.before_exit.append(self._end_children)
            threading.Thread(target=self._watch, name="fedpurin-ranks", daemon=True).start()
        else:
            wake_when_parent_ends()
        return function(*args, **kwargs)

    def _end_children(self) -> None:
        """Leave nobody behind: not one that waits for a process group which will never be, nor one that is stopped."""
        self._leaves = True
        self._grouped = self._grouped or torch.distributed.is_initialized()
        closed = not torch.distributed.is_initialized()  # by `Processes.close`, where there ever was a group
        grace = (END_GRACE_SECONDS if closed else FAILED_GRACE_SECONDS) if self._grouped else 0.0
        deadline = time.monotonic() + grace
        while any(child.poll() is None for child in self.procs) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        for child in self.procs:
            if child.poll() is None:
                child.kill()
                child.wait()

    def _watch(self) -> None:
        while not (lost := [rank for rank, child in enumerate(self.procs, 1) if child.poll()]):
            if all(child.returncode == 0 for child in self.procs):
                return
            self._grouped = self._grouped or torch.distributed.is_initialized()
            time.sleep(1)
        if self._leaves:
            return
        code = self.procs[lost[0] - 1].returncode
        if code in {128 + number for number in SIGNALS} | {
            -signal.SIGINT
        }:  # it left in good order, and so does this rank
            return
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        log.error("rank %d of %d ended with %s", lost[0], len(self.procs) + 1, how)
        grouped = torch.distributed.is_initialized()
        time.sleep(self.timeout_seconds + END_GRACE_SECONDS if grouped else START_GRACE_SECONDS)
        for child in self.procs:
            child.kill()
        os.kill(os.getpid(), signal.SIGKILL)


class ClientParallelStrategy(DDPStrategy):
    """A process group without DistributedDataParallel: ranks train different clients and never sync gradients."""

    def __init__(self, *, timeout_seconds: float) -> None:
        super().__init__(timeout=timedelta(seconds=START_SECONDS))  # of the default group, which only starts the run
        self.timeout_seconds = timeout_seconds
        self._backward_sync_control = None

    def _configure_launcher(self) -> None:
        self._launcher = PatientLauncher(
            self.cluster_environment, self.num_processes, self.num_nodes, timeout_seconds=self.timeout_seconds
        )

    def _setup_distributed(self) -> None:
        """On one node, listen where no other machine can connect. torchrun's agent hosts its store itself."""
        if self.num_nodes == 1:
            rendezvous.stay_on_loopback()
            if "TORCHELASTIC_RUN_ID" not in os.environ and not rendezvous.has_group():
                assert self.cluster_environment is not None
                self._set_world_ranks()
                rendezvous.make_local_group(
                    self._get_process_group_backend(), self.cluster_environment.main_port, self.global_rank,
                    self.world_size, self._timeout, None if self.root_device.type == "cpu" else self.root_device,
                )  # fmt: skip
        with rendezvous.taken_port_is_named(int(os.environ.get("MASTER_PORT", "0"))):
            super()._setup_distributed()  # makes the group where there is none yet

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        return module

    @property
    def distributed_sampler_kwargs(self) -> None:  # type: ignore[override]
        return None  # a client's data belong to it; nothing is sharded over ranks


def make_fabric(config: TrainerConfig, *, callbacks: Sequence[Any] = (), timeout_seconds: float = 600.0) -> Fabric:
    """Start the processes that `config` asks for and return this one's Fabric.

    Raises:
        ConfigError: the devices asked for are not there.
    """
    num_devices, num_nodes = _world(config)
    accelerator = _accelerator(config, num_devices)
    alone = num_devices * num_nodes == 1
    if alone and not is_first_process():  # this rank was started for another run of the script
        raise ConfigError(
            f"trainer.devices={config.devices} in a script whose later run has more: its ranks run the whole script, so "
            "give every run of a script the same trainer.devices"
        )
    fabric = Fabric(
        accelerator=accelerator,
        devices=num_devices,
        num_nodes=num_nodes,
        precision=config.precision,
        strategy="auto" if alone else ClientParallelStrategy(timeout_seconds=timeout_seconds),
        callbacks=list(callbacks),
    )
    fabric.launch()
    threads = config.threads or max(1, _cores() // (num_devices if accelerator == "cpu" else 1))
    torch.set_num_threads(threads)
    return fabric


def _world(config: TrainerConfig) -> tuple[int, int]:
    """Processes a node and nodes. Under torchrun or srun the launcher has decided; the options follow it."""
    if world := external_world(config.devices, config.num_nodes):
        return world
    if config.devices == "auto":
        return (torch.cuda.device_count() or 1) if config.accelerator != "cpu" else 1, 1
    return config.devices, 1


def _accelerator(config: TrainerConfig, num_devices: int) -> str:
    """'cpu' or 'cuda'. `auto` takes the GPUs where there are any."""
    gpus = torch.cuda.device_count() if CUDAAccelerator.is_available() else 0
    if config.accelerator == "cpu" or (config.accelerator == "auto" and gpus == 0):
        available, kind = max(MIN_CPU_PROCESSES, _cores()), "cpu"
    else:
        available, kind = gpus, "cuda"
    if num_devices > available:
        raise ConfigError(
            f"trainer.devices={num_devices} with trainer.accelerator={config.accelerator} is not possible: "
            + (f"at most {available} CPU processes" if kind == "cpu" else f"this machine has {available} GPU(s)")
        )
    return kind


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
