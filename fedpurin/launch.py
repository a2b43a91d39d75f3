"""How processes come to be: Lightning Fabric with a strategy that leaves the clients' module alone.

Plain `python` (Fabric starts the other processes), torchrun and srun are all detected by Fabric's environments.
Does not own collectives: those are in `exchange/`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from lightning import Fabric
from lightning.fabric.accelerators import CUDAAccelerator
from lightning.fabric.strategies import DDPStrategy
from torch import nn

from fedpurin.config import ConfigError, TrainerConfig

MIN_CPU_PROCESSES = 8  # a laptop may run this many ranks on fewer cores, slower, to check that nothing changes


class ClientParallelStrategy(DDPStrategy):
    """A process group without DistributedDataParallel: ranks train different clients and never sync gradients."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._backward_sync_control = None

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        return module

    @property
    def distributed_sampler_kwargs(self) -> None:  # type: ignore[override]
        return None  # a client's data belong to it; nothing is sharded over ranks


def make_fabric(config: TrainerConfig, *, callbacks: Sequence[Any] = (), timeout_seconds: float = 1800.0) -> Fabric:
    """Start the processes that `config` asks for and return this one's Fabric.

    Raises:
        ConfigError: the devices asked for are not there.
    """
    num_devices, num_nodes = _world(config)
    accelerator = _accelerator(config, num_devices)
    alone = num_devices * num_nodes == 1
    fabric = Fabric(
        accelerator=accelerator,
        devices=num_devices,
        num_nodes=num_nodes,
        precision=config.precision,
        strategy="auto" if alone else ClientParallelStrategy(timeout=timedelta(seconds=timeout_seconds)),
        callbacks=list(callbacks),
    )
    fabric.launch()
    threads = config.threads or max(1, _cores() // (num_devices if accelerator == "cpu" else 1))
    torch.set_num_threads(threads)
    return fabric


def _world(config: TrainerConfig) -> tuple[int, int]:
    """Processes a node and nodes. Under torchrun or srun the launcher has decided; the options follow it."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    if config.devices == "auto":
        return (torch.cuda.device_count() or 1) if config.accelerator != "cpu" else 1, config.num_nodes
    return config.devices, config.num_nodes


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
