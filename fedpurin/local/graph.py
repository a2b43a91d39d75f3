"""Cohorts whose steps are recorded once and replayed: a CUDA graph, in which a step costs one launch for all its kernels.

A step is a function of tensors. What it reads lies in buffers that stay where they are; a later step of the same shapes
copies its arguments in, replays the kernels and copies out what they wrote. Nothing of Python runs again, so a step must
not depend on anything else that changes; `choice.py` compares a replayed fit with a serial one before the first round.

Owns: the recordings, their static buffers, and when to do without. Does not own: the step (`cohort.py`). The optimizer steps
outside of the graph, one tensor for the whole stack; evaluations run as those of every cohort.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fedpurin.local.cohort import CohortExecutor
from fedpurin.local.trainer import LocalTrainer

log = logging.getLogger(__name__)

Work = Callable[[], Tensor]
"""A step over static buffers. It returns the losses, and writes the rest into its buffers."""
Recorder = Callable[[Work], Work]

MOST_RECORDINGS = 16
"""Each keeps buffers of a whole cohort. Where clients differ much in size there are more shapes: those step unrecorded."""


def record_cuda(work: Work) -> Work:
    """Capture the kernels of one call; the result launches them again. The random streams go on as if nothing had run."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()]):
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            work()  # what libraries set up at a first call must not be captured
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = work()

    def replay() -> Tensor:
        graph.replay()
        return losses

    return replay


RECORDERS: dict[str, Recorder] = {"cuda": record_cuda}
"""By type of device."""


@dataclass(frozen=True)
class _Recording:
    """A step's static arguments, and what runs it over them."""

    leaves: list[Tensor]
    replay: Work


class GraphExecutor(CohortExecutor):
    """A cohort executor that records the steps whose shapes come back."""

    def __init__(self, trainer: LocalTrainer, size: int) -> None:
        super().__init__(trainer, size)
        self._record: Recorder | None = RECORDERS[trainer.vector.device.type]
        self._recordings: dict[Hashable, _Recording] = {}
        self._met: Counter[Hashable] = Counter()
        self.num_replayed = 0
        """Steps that were replayed so far."""
        self.is_trial = True
        """Before the first round a step that cannot be recorded is an error; later it is a line in the log."""

    def forget(self) -> None:
        """Free the recordings."""
        self._recordings.clear()
        self._met.clear()

    def _run(self, said: Hashable, work: Callable[[Any, Any], Tensor], read: Any, written: Any) -> Tensor:
        leaves, structure = pytree.tree_flatten((written, read))
        key = said, str(structure), tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        self._met[key] += 1
        if key not in self._recordings:
            if self._record is None or self._met[key] < 2 or len(self._recordings) >= MOST_RECORDINGS:
                return work(read, written)
            try:
                self._recordings[key] = self._recorded(leaves, structure, work)
            except Exception as error:
                if self.is_trial:
                    raise
                log.warning("steps are not recorded from here on: %s: %s", type(error).__name__, error)
                self._record = None
                return work(read, written)
        recording = self._recordings[key]
        for own, leaf in zip(recording.leaves, leaves, strict=True):
            own.copy_(leaf)
        losses = recording.replay()
        for own, leaf in zip(recording.leaves, pytree.tree_leaves(written), strict=False):  # they come first
            leaf.copy_(own)
        self.num_replayed += 1
        return losses.clone()

    def _recorded(self, leaves: list[Tensor], structure: Any, work: Callable[[Any, Any], Tensor]) -> _Recording:
        assert self._record is not None
        static = [leaf.detach().clone(memory_format=torch.contiguous_format) for leaf in leaves]
        written, read = pytree.tree_unflatten(static, structure)
        with self.trainer.counters.held():
            return _Recording(static, self._record(lambda: work(read, written)))
