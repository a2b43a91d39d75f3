"""Signs of life of every rank in the process group's store, so that survivors can name the rank that died.

Owns: one daemon thread a rank that counts up its key and listens for a verdict. Does not own: noticing that something
is wrong (a collective that fails or times out does, `processes.py`).

A rank whose count stands still is dead or stopped; a rank that waits in a collective still counts, since the
wait releases the GIL. The first rank to find out publishes its verdict, because its own end makes other ranks'
collectives fail too, and takes the store with it where rank 0 serves the store. If the store is gone or silent without a
verdict, it is rank 0 that was lost.

Kept beside what torch has: a collective's own error or time-out names no rank, or the neighbour in the ring whose
connection broke; `monitored_barrier` names one, but only on gloo, only from rank 0 and only where every rank would stop
for it in each round; an elastic agent knows the processes of its own node.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from typing import Any

from torch.distributed import distributed_c10d

INTERVAL_SECONDS = 0.5
PATIENCE_SECONDS = 4.0
ANSWER_SECONDS = 10.0
"""A store that takes longer for a whole search, PATIENCE_SECONDS included, does not answer any more."""
_VERDICT = "fedpurin/lost"
_REASON = "fedpurin/reason"


class Heartbeat:
    """Counts this rank's beats in the default store, and compares everyone's."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._store: Any = distributed_c10d._get_default_store()
        self._verdict: list[int] | None = None
        self.reason: str | None = None
        """Why another rank ends, as it said itself."""
        self._store.add(self._key(rank), 1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="fedpurin-heartbeat", daemon=True)
        self._thread.start()
        # A thread inside the store's C++ while the interpreter shuts down aborts the process.
        atexit.register(self.stop)

    def stop(self) -> None:
        """End the thread; the rank is about to leave in good order."""
        self._stopped.set()
        self._thread.join(timeout=PATIENCE_SECONDS)

    def announce(self, reason: str) -> None:
        """Tell the other ranks why this one is about to end."""
        try:
            self._store.set(_REASON, json.dumps([self.rank, reason]))
        except RuntimeError:
            return  # rank 0 has gone, and the store with it
        time.sleep(2 * INTERVAL_SECONDS)  # every rank learns of it before this one ends

    def find_lost(self) -> list[int]:
        """Ranks whose beat stands still for PATIENCE_SECONDS, or that another rank found lost."""
        found: list[list[int]] = []
        # In a thread, because a call to a store whose server is stopped, not dead, never returns.
        search = threading.Thread(target=lambda: found.append(self._search()), name="fedpurin-search", daemon=True)
        search.start()
        search.join(timeout=ANSWER_SECONDS)
        if found:
            return found[0]
        return self._verdict or ([0] if self.rank else [])

    def _search(self) -> list[int]:
        try:
            before = self._read()
            deadline = time.monotonic() + PATIENCE_SECONDS
            while self._verdict is None and self.reason is None and time.monotonic() < deadline:
                time.sleep(INTERVAL_SECONDS)
            if self._verdict is not None:
                return self._verdict
            if self.reason is not None:
                return []  # somebody said why it ends: nobody is lost
            after = self._read()
            lost = [rank for rank in range(self.size) if rank != self.rank and before[rank] == after[rank]]
            if lost:
                self._store.set(_VERDICT, json.dumps(lost))
                time.sleep(2 * INTERVAL_SECONDS)  # every rank learns of it before this one ends
        except RuntimeError:
            return [0] if self._verdict is None else self._verdict
        return lost

    def _read(self) -> list[int]:
        return [self._store.add(self._key(rank), 0) for rank in range(self.size)]

    def _beat(self) -> None:
        try:
            store = self._store.clone() if hasattr(self._store, "clone") else self._store
            while not self._stopped.wait(INTERVAL_SECONDS):
                store.add(self._key(self.rank), 1)
                if self._verdict is None and store.check([_VERDICT]):
                    self._verdict = json.loads(store.get(_VERDICT))
                if self.reason is None and store.check([_REASON]):
                    self._receive_reason(*json.loads(store.get(_REASON)))
        except RuntimeError:
            return  # the store is gone: the run ends

    def _receive_reason(self, rank: int, reason: str) -> None:
        """Rank 0 has a summary to write; any other ends here, quietly, because the reason has been told once."""
        if rank == self.rank:
            return
        self.reason = f"rank {rank}: {reason}"
        if self.rank:
            os._exit(0)  # a failure is what the announcing rank's exit code says

    @staticmethod
    def _key(rank: int) -> str:
        return f"fedpurin/heartbeat/{rank}"
