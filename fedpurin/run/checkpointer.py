"""When a run's state is saved, what it is, and putting it back: the engine's own listener, on every rank.

A checkpoint holds each client's vector, buffers, mask, further vectors and latest metrics, what the method keeps
between rounds, the ledger, and the history. Random streams are named by (seed, purpose, round, client), so there is no
generator to save. Client keys make it independent of the number of ranks. Does not own: the files (checkpoint.py).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from fedpurin.config import CheckpointConfig, ConfigError
from fedpurin.exchange import RankLostError
from fedpurin.federation import Federation
from fedpurin.hooks import RunCallback
from fedpurin.local.client import Client
from fedpurin.methods import Method
from fedpurin.metrics import ACCURACY, headline
from fedpurin.run.checkpoint import Checkpoint, CheckpointError, Writing, find_all, find_latest, prune, sync_files
from fedpurin.run.data_digest import check_data
from fedpurin.run.export import describe_module
from fedpurin.run.growing import LINES, appended_files, bring_back, put_aside
from fedpurin.run.interruption import Interrupted, Interruption
from fedpurin.run.lock import RunLock
from fedpurin.run.record import RunFolder, first_line
from fedpurin.run.resume import holds_run, is_marked_finished
from fedpurin.run.stored_config import read_id

log = logging.getLogger(__name__)

FORMAT = 1
"""Raised when a checkpoint of an older version can no longer be read."""
CLIENTS_AT_ONCE = 64
"""A restore holds so many clients twice."""


class Checkpointer(RunCallback):
    """Restores when a run starts, saves every so many rounds and at the end, stops at a signal."""

    def __init__(self, config: CheckpointConfig, lock: RunLock, folder: RunFolder) -> None:
        self.config, self.lock, self.folder = config, lock, folder
        self.data: dict[str, Any] = {}
        """What `describe_data` says of this start's data."""
        self.use: dict[str, Any] = {}
        """What `describe_use` says of the clients' module."""
        self._interruption: Interruption
        self._group: Any = None
        self._writing: Writing | None = None

    def on_run_start(self, federation: Federation) -> None:
        """Go on where the run folder's newest sound checkpoint left off."""
        processes = federation.processes
        self._interruption = Interruption(self.config.grace_seconds, processes.rank)
        self._interruption.install()
        self._group = processes.private_group()
        check_shared(federation)
        if federation.config.resume == "auto":
            self._restore(federation)

    def on_round_done(self, federation: Federation, number: int) -> None:
        """Save if it is time to; a checkpoint that cannot be written is a warning, the one before it stands."""
        self._commit(federation)
        done, every = number + 1, self.config.every
        received = [number for number in federation.processes.gather_objects(self._interruption.received) if number]
        last = done == federation.config.trainer.rounds
        if every and (done % every == 0 or last or received):
            self._interruption.in_time()
            self._save(federation, done)
            if received or last:
                self._commit(federation)
        if received and not last:
            raise Interrupted(received[0], done, federation.processes.rank)

    def on_run_end(self, federation: Federation) -> None:
        self._close()

    def on_run_failed(self, federation: Federation, error: BaseException) -> None:
        """Tell the other ranks why this one ends, unless they know or find out in the same way."""
        if not isinstance(error, Interrupted | RankLostError | ConfigError):
            line = self.folder.place.explain(error) if isinstance(error, OSError) else None
            federation.processes.announce(first_line(line or error))
        self._close()

    def _close(self) -> None:
        self._interruption.uninstall()
        self.lock.release()

    def _save(self, federation: Federation, done: int) -> None:
        asynchronous = self.config.asynchronous
        if asynchronous is None:
            asynchronous = federation.trainer.vector.is_cuda
        tensors, state = collect(federation)
        state["data"], state["use"] = self.data, self.use | {"measured_as": measured_as(federation.method)}
        self._writing = Writing(
            federation.run_dir, done, tensors, state, federation.processes,
            run_id=self.folder.run_id, group=self._group, asynchronous=asynchronous,
        )  # fmt: skip
        if not asynchronous:
            self._commit(federation)

    def _commit(self, federation: Federation) -> None:
        """Put a checkpoint that has been started into place."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            writing.commit()
        except CheckpointError as error:
            if federation.processes.rank == 0:
                log.error("checkpoint %s; the one before it stands, the run goes on", error)
            return
        if federation.processes.rank == 0:
            best = best_rounds(federation, [checkpoint.rounds_done for checkpoint in find_all(federation.run_dir)])
            prune(federation.run_dir, self.config.keep, best)

    def _restore(self, federation: Federation) -> None:
        processes, run_dir = federation.processes, federation.run_dir
        found, refusal = None, None
        if processes.rank == 0 and holds_run(run_dir):
            found, refusal = find_sound(run_dir)
        refusal = processes.broadcast_object(refusal)
        if refusal is not None:
            raise ConfigError(refusal)
        name = processes.broadcast_object((str(found.path), found.rounds_done) if found is not None else None)
        found = Checkpoint(Path(name[0]), name[1]) if name is not None else None
        state = found.read_state() if found is not None else None
        if state is not None:
            check_data(federation.run_dir, state.get("data"), self.data)
            check_state(federation, state)
        if processes.rank == 0:
            if found is not None and state is not None:
                put_newer_aside(run_dir, found)
                bring_back(run_dir, found.path / LINES, state["lengths"])
            else:
                bring_back(run_dir, None, {}, keep=is_marked_finished(run_dir))
        processes.barrier()
        if found is None or state is None:
            return
        restore(federation, found, state)
        if processes.rank == 0:
            log.info("continues after %d rounds, from %s", found.rounds_done, found.path)


def find_sound(run_dir: Path) -> tuple[Checkpoint | None, str | None]:
    """The checkpoint to continue from; or why not to begin anew in a folder whose checkpoints are all damaged."""
    reports: list[str] = []
    found = find_latest(run_dir, reports.append, read_id(run_dir))
    if found is None and reports:
        return None, (
            f"{reports[0].removeprefix('damaged checkpoint skipped: ')}; none of the run's {len(reports)} checkpoints is "
            f"sound. To begin anew, move {run_dir / 'checkpoints'} away"
        )
    for line in reports:
        log.warning(line)
    return found, None


def put_newer_aside(run_dir: Path, found: Checkpoint) -> None:
    """Rename the damaged checkpoints that were skipped, so that they neither count as kept nor are written over."""
    for checkpoint in find_all(run_dir):
        if checkpoint.rounds_done > found.rounds_done:
            put_aside(checkpoint.path, "was skipped")


def best_rounds(federation: Federation, candidates: list[int]) -> int | None:
    """Which of the checkpoints after so many rounds has the best `checkpoint.monitor`; the earliest of equals.

    A run without an accuracy is judged by its headline, and the headline by `trainer.monitor_mode`.
    """
    monitor, history, trainer = federation.config.checkpoint.monitor, federation.history, federation.config.trainer
    head = headline(trainer.monitor, history[-1] if history else ())
    if monitor == "accuracy/personalized" and head != ACCURACY:
        monitor = f"{head}/personalized"
    sign = -1 if trainer.monitor_mode == "min" and (monitor or "").startswith(f"{head}/") else 1
    values = (
        {done: history[done - 1].get(monitor) for done in candidates if 0 < done <= len(history)} if monitor else {}
    )
    known = {done: value for done, value in values.items() if value is not None}
    return max(sorted(known), key=lambda done: sign * known[done], default=None)


def collect(federation: Federation) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """This rank's tensors, and (the same on every rank, but for the history) everything that is none. A collective."""
    processes, trainer = federation.processes, federation.trainer
    tensors: dict[str, Tensor] = {}
    for client in federation.clients.values():
        tensors |= client_tensors(client)
    module, fixed = describe_module(trainer)
    method, method_tensors = split_tensors(federation.method.state_dict(), "method")
    ledger = federation.exchange.ledger.gather(processes)
    own = {
        client_id: (client.metrics, [client.epochs, client.steps]) for client_id, client in federation.clients.items()
    }
    everyone = [item for part in processes.gather_objects(own) for item in part.items()]
    state = {
        "format": FORMAT,
        "threads": torch.get_num_threads(),
        "device": trainer.vector.device.type,
        "torch": torch.__version__,
        "layout": [[segment.name, list(segment.shape)] for segment in trainer.space.layout],
        "module": module,
        "method": method,
        "ledger": ledger.state_dict(),
        "metrics": {str(client_id): metrics for client_id, (metrics, _) in everyone},
        "counts": {str(client_id): counts for client_id, (_, counts) in everyone},
        "history": federation.history,
        "lengths": sync_files(appended_files(federation.run_dir)) if processes.rank == 0 else {},
    }
    return tensors | fixed | method_tensors, state


def check_state(federation: Federation, state: Mapping[str, Any]) -> None:
    """See that the checkpoint is this run's, before anything of the run folder is changed.

    Raises:
        ConfigError: it is another model's, another version's or another device's.
    """
    trainer, run_dir = federation.trainer, federation.run_dir
    if state["format"] != FORMAT:
        raise ConfigError(f"{run_dir}: its checkpoints have format {state['format']}, this version {FORMAT}")
    if state["layout"] != [[segment.name, list(segment.shape)] for segment in trainer.space.layout]:
        raise ConfigError(f"{run_dir}: the checkpoint holds another model than {type(trainer.module).__name__}")
    if state["device"] != trainer.vector.device.type:
        raise ConfigError(
            f"trainer.accelerator: the run began on {state['device']} and would go on on "
            f"{trainer.vector.device.type}, which has other bits; resume it on the same kind of device"
        )
    if state["torch"] != torch.__version__:
        log.warning("the run began with torch %s; with %s its bits may differ", state["torch"], torch.__version__)


def restore(federation: Federation, checkpoint: Checkpoint, state: Mapping[str, Any]) -> None:
    """The inverse of `collect` for this rank's clients."""
    torch.set_num_threads(state["threads"])  # convolutions split their sums by threads, on whatever machine
    own, device = list(federation.clients.values()), federation.trainer.vector.device
    for start in range(0, len(own), CLIENTS_AT_ONCE):
        batch = {f"client/{client.id}/": client for client in own[start : start + CLIENTS_AT_ONCE]}
        tensors = checkpoint.read_tensors(lambda key, batch=batch: key[: key.find("/", 7) + 1] in batch)  # type: ignore[misc]
        for client in batch.values():
            restore_client(client, tensors, state["metrics"].get(str(client.id), {}), device)
            client.epochs, client.steps = state.get("counts", {}).get(str(client.id), (0, 0))
        federation.store.put_back(batch.values())
    kept = checkpoint.read_tensors(lambda key: key.startswith("method/"))
    federation.method.load_state_dict(
        join_tensors(state["method"], {key: value.to(device) for key, value in kept.items()})
    )
    federation.exchange.ledger.load_state_dict(state["ledger"], federation.clients.keys())
    history = list(state["history"])
    federation.first_round = len(history)
    federation.history[:] = history if federation.processes.rank == 0 else []


def measured_as(method: Method) -> str | None:
    """Which variant of the evaluation measures the vector that a checkpoint holds as a client's own; None: neither."""
    kind = type(method)
    if kind.merged is Method.merged:
        return "merged"
    return "personalized" if kind.personalized is Method.personalized else None


def client_tensors(client: Client) -> dict[str, Tensor]:
    """A client's state as flat keys. All buffers travel as one tensor of bytes: a thousand small ones are slow."""
    prefix = f"client/{client.id}"
    tensors = {f"{prefix}/vector": client.vector, f"{prefix}/test_indices": client.test_indices}
    if client.buffers:
        tensors[f"{prefix}/buffers"] = torch.cat([as_bytes(buffer) for buffer in client.buffers.values()])
    if client.mask is not None:
        tensors[f"{prefix}/mask"] = client.mask
    return tensors | {f"{prefix}/extra/{name}": value for name, value in client.extra.items()}


def restore_client(
    client: Client, tensors: Mapping[str, Tensor], metrics: Mapping[str, float], device: torch.device
) -> None:
    """Put a client's tensors and metrics back."""
    prefix = f"client/{client.id}"
    client.vector.copy_(tensors[f"{prefix}/vector"])
    if client.buffers:
        sizes = [buffer.numel() * buffer.element_size() for buffer in client.buffers.values()]
        pieces = torch.split(tensors[f"{prefix}/buffers"], sizes)
        for buffer, piece in zip(client.buffers.values(), pieces, strict=True):
            buffer.copy_(piece.clone().view(buffer.dtype).view(buffer.shape))
    if f"{prefix}/mask" in tensors:
        client.mask = tensors[f"{prefix}/mask"].to(device)
    start = f"{prefix}/extra/"
    client.extra = {key[len(start) :]: value.to(device) for key, value in tensors.items() if key.startswith(start)}
    client.metrics = dict(metrics)


def as_bytes(tensor: Tensor) -> UInt8[Tensor, " bytes"]:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def split_tensors(value: Any, key: str) -> tuple[Any, dict[str, Tensor]]:
    """A nested state without its tensors, in whose places their keys stand; and the tensors by key."""
    tensors: dict[str, Tensor] = {}

    def walk(item: Any, at: str) -> Any:
        if isinstance(item, Tensor):
            tensors[at] = item
            return {"__tensor__": at}
        if isinstance(item, Mapping):
            return {str(name): walk(part, f"{at}/{name}") for name, part in item.items()}
        if isinstance(item, list | tuple):
            return [walk(part, f"{at}/{index}") for index, part in enumerate(item)]
        return item

    return walk(value, key), tensors


def join_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `split_tensors`; keys of mappings come back as strings."""
    if isinstance(value, Mapping):
        if value.keys() == {"__tensor__"}:
            return tensors[value["__tensor__"]]
        return {name: join_tensors(part, tensors) for name, part in value.items()}
    return [join_tensors(part, tensors) for part in value] if isinstance(value, list) else value


def check_shared(federation: Federation) -> None:
    """See that all ranks write into one folder: a disk of the node's own would split a checkpoint.

    Raises:
        ConfigError: some rank does not see what rank 0 wrote.
    """
    processes, token = federation.processes, federation.run_dir / ".ranks"
    if processes.size == 1:
        return
    if processes.rank == 0:
        token.write_text(str(os.getpid()))
    processes.barrier()
    blind = [rank for rank, sees in enumerate(processes.gather_objects(token.exists())) if not sees]
    if processes.rank == 0:
        token.unlink()
    if blind:
        raise ConfigError(
            f"hydra.run.dir={federation.run_dir} is not the same folder on rank {', '.join(map(str, blind))}: "
            "a run over several nodes needs one that all of them share"
        )
