"""The only door to torch.distributed: ranks, variable-length collectives, and the name of a rank that is lost.

Owns: which rank a client lives on, moving bytes and small Python objects between ranks, telling who died.
Does not own: what the bytes mean (`message.py`), who needs which (`exchange.py`), starting processes (the launcher).

Works without a process group (one rank) and over an initialised default group, gloo or NCCL. Payloads travel on
their own device through the default backend; lengths and objects through a gloo group, which also has the time-out
of `exchange.timeout_seconds`, so that every collective on a GPU is preceded by one that notices an absent rank.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from jaxtyping import Float32, UInt8
from torch import Tensor

from fedpurin.exchange.heartbeat import Heartbeat
from fedpurin.exchange.objects import decode_object, encode_object
from fedpurin.exchange.peers import describe_self, end_if_stopped

Item = TypeVar("Item")


class RankLostError(RuntimeError):
    """A rank died or stopped answering during a collective; the text names it."""


class Processes:
    """The ranks of this run.

    Every rank constructs it at the same point, after the default process group exists (if there is to be one).
    `moved_bytes` counts what this rank received from others: the simulator's own traffic, not the clients'.
    """

    def __init__(self, device: torch.device | str = "cpu", timeout_seconds: float = 600.0) -> None:
        self.device = torch.device(device)
        self.moved_bytes = 0
        self.block = 1
        """Consecutive client ids that live on one rank, because they are fitted together."""
        self._homes: list[int] = []
        self.timeout_seconds = timeout_seconds
        grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.size = dist.get_world_size() if grouped else 1
        self._control: Any = None
        self._data: Any = None
        self._heartbeat: Heartbeat | None = None
        self.is_broken = False
        """A rank has ended, or is about to, while others went on."""
        if self.size > 1:
            for earlier in _made:
                earlier.stop()  # its run is over, and its signs of life are these ranks'
            _made[:] = [self]
            timeout = timedelta(seconds=timeout_seconds)
            self._control = dist.new_group(backend="gloo", timeout=timeout)
            self._data = self._control if self.device.type == "cpu" else dist.new_group(timeout=timeout)
            self._heartbeat = Heartbeat(self.rank, self.size)
            self._peers = self.gather_objects(describe_self())
            self.moved_bytes = 0

    def place(self, costs: Sequence[float], block: int = 1) -> None:
        """Decide where clients live, by what a round of each costs: the same on every rank, whatever is asked first.

        Blocks of consecutive ids go to ranks, the costliest first, each to the rank that has least so far. So clients of
        equal cost go round by round, and no rank has more than the least loaded one by more than one block.
        """
        self.block = block
        blocks = [sum(costs[first : first + block]) for first in range(0, len(costs), block)]
        loads, self._homes = [0.0] * self.size, [0] * len(blocks)
        for number in sorted(range(len(blocks)), key=lambda number: -blocks[number]):
            rank = loads.index(min(loads))
            self._homes[number] = rank
            loads[rank] += blocks[number]

    def owner(self, client: int) -> int:
        """The rank on which a client lives."""
        number = client // self.block
        return self._homes[number] if self._homes else number % self.size

    def owns(self, client: int) -> bool:
        """Whether a client lives on this rank."""
        return self.owner(client) == self.rank

    def owned(self, clients: Sequence[int]) -> list[int]:
        """Those of `clients` that live on this rank, in the given order."""
        return [client for client in clients if self.owns(client)]

    def all_gather(self, piece: UInt8[Tensor, " bytes"]) -> list[UInt8[Tensor, " _"]]:
        """Every rank's piece, in rank order; lengths may differ."""
        return self.all_to_all([piece] * self.size)

    def all_to_all(self, pieces: Sequence[UInt8[Tensor, " _"]]) -> list[UInt8[Tensor, " _"]]:
        """Send piece r to rank r; return what each rank sent here, in rank order. The own piece is not copied."""
        if self.size == 1:
            return list(pieces)
        own = pieces[self.rank]
        away = [piece if rank != self.rank else piece[:0] for rank, piece in enumerate(pieces)]
        outgoing = torch.tensor([piece.numel() for piece in away])
        with self._watch("all-to-all"):
            lengths = [torch.empty_like(outgoing) for _ in range(self.size)]
            dist.all_gather(lengths, outgoing, group=self._control)
            incoming = torch.stack(lengths)[:, self.rank].tolist()
            received = torch.empty(sum(incoming), dtype=torch.uint8, device=own.device)
            group = self._control if own.device.type == "cpu" else self._data
            dist.all_to_all_single(received, torch.cat(away), incoming, outgoing.tolist(), group=group)
        self.moved_bytes += received.numel()
        arrived = list(received.split_with_sizes(incoming))
        arrived[self.rank] = own
        return arrived

    def broadcast(self, vector: Float32[Tensor, " length"], source: int) -> None:
        """Overwrite `vector` by that of rank `source`."""
        if self.size > 1:
            with self._watch("broadcast"):
                dist.barrier(group=self._control)
                dist.broadcast(vector, source, group=self._control if vector.device.type == "cpu" else self._data)
            self.moved_bytes += vector.nbytes if self.rank != source else 0

    def gather_objects(self, item: Item) -> list[Item]:
        """Every rank's item, in rank order, on every rank. For small objects of plain types (`objects.py`)."""
        if self.size == 1:
            return [item]
        data = torch.frombuffer(bytearray(encode_object(item)), dtype=torch.uint8)
        return [decode_object(piece.numpy().tobytes()) for piece in self.all_gather(data)]

    def is_any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank."""
        flags = torch.tensor([flag])
        if self.size > 1:
            with self._watch("all-reduce"):
                dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._control)
        return bool(flags)

    def broadcast_object(self, item: Item) -> Item:
        """Rank 0's item on every rank."""
        if self.size == 1:
            return item
        return self.gather_objects(item if self.rank == 0 else cast(Item, None))[0]

    def private_group(self) -> Any:
        """A CPU group for collectives in a thread, beside these; None for one rank. A collective itself."""
        return (
            dist.new_group(backend="gloo", timeout=timedelta(seconds=self.timeout_seconds)) if self.size > 1 else None
        )

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
            with self._watch("barrier"):
                dist.barrier(group=self._control)

    def close(self) -> None:
        """Leave in order: a thread of gloo's or the store's that outlives its objects aborts the process. A collective.

        Nothing may be sent afterwards. Without it, after an error say, the heartbeat alone is stopped at exit: groups
        are not taken down while a collective hangs in them.
        """
        if self.size == 1 or self._heartbeat is None:
            return
        self.barrier()  # nobody waits for anybody any more
        self.stop()
        dist.barrier(group=self._control)  # nobody uses the store any more, which goes with rank 0
        self._control = self._data = None
        dist.destroy_process_group()

    def stop(self) -> None:
        """End the heartbeat alone."""
        if self._heartbeat is not None:
            self._heartbeat.stop()
        self._heartbeat = None

    def announce(self, reason: str) -> None:
        """Before this rank ends: the others end too, quietly, and need not find out for themselves."""
        if self._heartbeat is not None:
            self.is_broken = True
            self._heartbeat.announce(reason)

    @contextmanager
    def _watch(self, what: str) -> Iterator[None]:
        """Turn the failure of a collective into a message that names the ranks that no longer answer."""
        try:
            yield
        except RuntimeError as error:
            assert self._heartbeat is not None
            self.is_broken = True
            lost = self._heartbeat.find_lost()
            if self._heartbeat.reason is not None:
                raise RankLostError(self._heartbeat.reason) from error
            for rank in lost:
                end_if_stopped(self._peers[rank], rank)
            who = " and ".join(f"rank {rank} of {self.size}" for rank in lost) or "no rank is known to be lost, but one"
            raise RankLostError(
                f"{who} did not finish the {what} that rank {self.rank} waits in "
                f"(exchange.timeout_seconds={self.timeout_seconds:g}): {str(error).splitlines()[0]}"
            ) from error


_made: list[Processes] = []
"""Those of the latest run that several ranks began."""


@cache
def close_at_exit() -> None:
    """Close when the interpreter ends: a script or a sweep may have further runs, over the one default process group.

    Asked for before a run is built, so that one which every rank refuses leaves the group in order too.
    """
    atexit.register(_close_last)


def _close_last() -> None:
    """What `close` does, for the latest run's processes; a rank that is lost by now keeps nobody waiting."""
    for last in _made:
        if last.is_broken:
            last.stop()
        with suppress(RuntimeError):
            last.close()


def give_up_ranks() -> None:
    """This rank leaves a run that the others go on with: they may wait for it in any collective."""
    for last in _made:
        last.is_broken = True


def ranks_are_lost() -> bool:
    """Whether the latest run ended so that its ranks cannot begin another one together."""
    return any(last.is_broken for last in _made)
