"""Signs of life of every rank in the process group's store, so that survivors can name the rank that died.

Owns: one daemon thread a rank that counts up its key. Does not own: noticing that something is wrong (a
collective that fails or times out does, `processes.py`).

A rank whose count stands still is dead or stopped; a rank that waits in a collective still counts, since the
wait releases the GIL. If the store itself does not answer, the rank that serves it, rank 0, is the one lost.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from torch.distributed import distributed_c10d

INTERVAL_SECONDS = 0.5
PATIENCE_SECONDS = 4.0


class Heartbeat:
    """Counts this rank's beats in the default store, and compares everyone's."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._store: Any = distributed_c10d._get_default_store()
        self._beats = 0
        self._store.add(self._key(rank), 1)
        threading.Thread(target=self._beat, name="fedpurin-heartbeat", daemon=True).start()

    def find_lost(self) -> list[int]:
        """Ranks whose beat stands still for PATIENCE_SECONDS."""
        try:
            before = self._read()
            time.sleep(PATIENCE_SECONDS)
            after = self._read()
        except RuntimeError:
            return [0]
        return [rank for rank in range(self.size) if rank != self.rank and before[rank] == after[rank]]

    def _read(self) -> list[int]:
        return [self._store.add(self._key(rank), 0) for rank in range(self.size)]

    def _beat(self) -> None:
        store = self._store.clone() if hasattr(self._store, "clone") else self._store
        while True:
            time.sleep(INTERVAL_SECONDS)
            try:
                store.add(self._key(self.rank), 1)
            except RuntimeError:
                return  # the store is gone: the run ends

    @staticmethod
    def _key(rank: int) -> str:
        return f"fedpurin/heartbeat/{rank}"
