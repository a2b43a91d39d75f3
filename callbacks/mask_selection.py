"""The mask-selection callback: when a client's fit ends, score its parameters and solve its program.

Thin over `fedpurin.selection`, which states the program in CVXPY, solves it with SCIP and certifies the answer.
On a GPU the solve runs in a thread while the next client trains (`program.overlap`); the mask is the same.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import lightning
import torch
from torch import Tensor

from fedpurin.client import Client, LocalTrainer
from fedpurin.config import ProgramConfig, ScoresConfig
from fedpurin.selection import Certificate, Selection, Selector, perturbation_scores


class MaskSelection(lightning.Callback):
    """Puts the packed critical-parameter mask into `client.mask` and its certificate into `certificates`."""

    def __init__(
        self, scores: ScoresConfig, program: ProgramConfig, *, value_bytes: int = 4, overhead_bytes: int = 0
    ) -> None:
        self.scores, self.program = scores, program
        self.value_bytes, self.overhead_bytes = value_bytes, overhead_bytes
        self.certificates: dict[int, Certificate] = {}
        self._selector: Selector | None = None
        self._pending: dict[int, tuple[Client, Future[Selection]]] = {}
        self._worker: ThreadPoolExecutor | None = None

    def setup(self, trainer: LocalTrainer, pl_module: lightning.LightningModule, stage: str = "fit") -> None:
        """State the program for the model's shared tensors; what is impossible for them is an error here."""
        self._selector = Selector(
            trainer.space.shared, self.program, value_bytes=self.value_bytes, overhead_bytes=self.overhead_bytes
        )
        overlaps = self.program.overlap
        if overlaps if overlaps is not None else trainer.vector.is_cuda:
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mask-selection")

    def on_fit_end(self, trainer: LocalTrainer, pl_module: lightning.LightningModule) -> None:
        """METHOD steps 2 and 3 for the client that has just been fitted."""
        client, shared = trainer.client, trainer.space.shared.length
        fitted = trainer.vector[:shared]
        direction = trainer.gradient if self.scores.source == "gradient" else fitted - client.vector[:shared]
        scores = perturbation_scores(fitted, direction, self.scores)
        if self._worker is None:
            self._keep(client, self._solve(scores))
        else:
            if scores.is_cuda:
                torch.cuda.current_stream().synchronize()  # the thread must not read scores still being written
            self._pending[client.id] = client, self._worker.submit(self._solve, scores)

    def on_round_fits_end(self) -> None:
        """Wait for the solves that still run; from here on every participant has its mask."""
        for client, future in self._pending.values():
            self._keep(client, future.result())
        self._pending.clear()

    def _solve(self, scores: Tensor) -> Selection:
        assert self._selector is not None, "setup runs before the first fit"
        return self._selector.solve(scores)

    def _keep(self, client: Client, selection: Selection) -> None:
        client.mask = selection.packed
        self.certificates[client.id] = selection.certificate
