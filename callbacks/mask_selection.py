"""The mask-selection callback: when a client's fit ends, score its parameters and solve its program.

Thin over `fedpurin.selection`, which states the program in CVXPY, solves it with SCIP and certifies the answer.
On a GPU the solve runs in a thread while the next client trains (`program.overlap`); the mask is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import lightning
import torch
from jaxtyping import Float32
from torch import Tensor

from fedpurin.config import ProgramConfig, ScoresConfig
from fedpurin.exchange.wire.costs import VALUE_BYTES, upload_overhead_bytes
from fedpurin.federation import Federation
from fedpurin.hooks import RunCallback
from fedpurin.local.client import Client, Diverged
from fedpurin.local.trainer import LocalTrainer
from fedpurin.seeding import torch_generator
from fedpurin.selection import Certificate, Selection, Selector, own_scores, perturbation_scores
from fedpurin.space import finite_rows

JOINT_SCORES = 4_000_000
"""Scores that are kept for a joint solve, over all clients (16 MB): larger models are solved as they come."""


class MaskSelection(RunCallback):
    """Puts the packed critical-parameter mask into `client.mask` and its certificate into `certificates`."""

    provides_masks = True

    def __init__(self, scores: ScoresConfig | None = None, program: ProgramConfig | None = None) -> None:
        """Scores and program default to the run's own options."""
        self.scores, self.program = scores, program
        self.certificates: dict[int, Certificate] = {}
        self._selector: Selector | None = None
        self._pending: dict[int, tuple[Client, Future[Selection]]] = {}
        self._waiting: list[tuple[Client, Tensor]] = []
        self._worker: ThreadPoolExecutor | None = None

    def on_run_start(self, federation: Federation) -> None:
        """State the program for the model's shared tensors; what is impossible for them is an error here."""
        if not federation.method.needs_masks:
            return  # the callback may stay configured; such a method has nothing to solve for
        config, trainer = federation.config, federation.trainer
        self.scores, self.program = self.scores or config.scores, self.program or config.program
        self._selector = Selector(
            trainer.space.shared,
            self.program,
            value_bytes=VALUE_BYTES[config.exchange.value_dtype],
            overhead_bytes=upload_overhead_bytes(config.exchange.mode),
        )
        self._size = trainer.space.shared.size
        overlaps = self.program.overlap
        if overlaps if overlaps is not None else trainer.vector.is_cuda:
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mask-selection")

    def on_round_start(self) -> None:
        self.certificates.clear()
        self._waiting.clear()

    def on_fit_end(self, trainer: LocalTrainer, pl_module: lightning.LightningModule) -> None:
        """METHOD steps 2 and 3 for the client that has just been fitted."""
        (objection,) = self.fits_ended(trainer, [trainer.client], trainer.vector[None], trainer.gradient[None])
        if objection is not None:
            raise Diverged(objection)

    def fits_ended(
        self,
        trainer: LocalTrainer,
        clients: Sequence[Client],
        vectors: Float32[Tensor, "clients length"],
        gradients: Float32[Tensor, "clients shared"],
    ) -> list[str | None]:
        """`on_fit_end` of clients that were fitted together, a row each; says of which the scores are not finite."""
        if self._selector is None:
            return [None] * len(clients)
        assert self.scores is not None, "on_run_start sets them"
        shared = trainer.space.shared.length
        fitted, directions = vectors[:, :shared], gradients
        if "update" in (self.scores.source, self.scores.order):
            directions = fitted - torch.stack([client.vector[:shared] for client in clients])
        scores = self._score(trainer, clients, fitted, directions, gradients)
        finite = finite_rows(scores)
        objections: list[str | None] = [None] * len(clients)
        for k, is_finite in enumerate(finite):
            if not is_finite:  # a gradient may be finite, and beyond what float16 holds
                largest = f"largest {self.scores.source}: {directions[k].abs().max():.3g}"
                objections[k] = f"scores are not finite ({largest})"
        self._solve_soon([(c, row) for c, row, is_finite in zip(clients, scores, finite, strict=True) if is_finite])
        return objections

    def _score(
        self,
        trainer: LocalTrainer,
        clients: Sequence[Client],
        fitted: Float32[Tensor, "clients shared"],
        directions: Float32[Tensor, "clients shared"],
        gradients: Float32[Tensor, "clients shared"],
    ) -> Float32[Tensor, "clients shared"]:
        """Scores of the shared parameters."""
        assert self.scores is not None
        if not self.scores.own and self.scores.order != "random":  # each element by itself
            flat = perturbation_scores(fitted.flatten(), directions.flatten(), self.scores)
            return flat.view(len(clients), -1)
        rows, name = [], "scores/custom" if self.scores.own else "scores/random"
        for client, own, direction, gradient in zip(clients, fitted, directions, gradients, strict=True):
            stream = torch_generator(trainer.seed, name, round_number=trainer.round_number, client=client.id)
            if self.scores.own:
                start, layout = client.vector[: own.numel()], trainer.space.shared
                rows.append(own_scores(own, start, gradient, layout, self.scores, stream))
            else:
                rows.append(perturbation_scores(own, direction, self.scores, stream))
        return torch.stack(rows)

    def _solve_soon(self, scored: Sequence[tuple[Client, Tensor]]) -> None:
        """Together with others at the end of the round, or in a thread from now on."""
        if self._worker is None:
            for client, scores in scored:
                self._waiting.append((client, scores))
                if len(self._waiting) * len(scores) >= JOINT_SCORES:
                    self._solve_waiting()
            return
        assert self._selector is not None
        for client, scores in scored:
            if scores.is_cuda:
                torch.cuda.current_stream().synchronize()  # the thread must not read scores still being written
            self._pending[client.id] = client, self._worker.submit(self._selector.solve, scores)

    def solve_masks(self) -> None:
        """Solve what waits, and wait for what is being solved; from here on every participant has its mask."""
        self._solve_waiting()
        for client, future in self._pending.values():
            self._keep(client, future.result())
        self._pending.clear()

    def _solve_waiting(self) -> None:
        """One program for many clients, where they are small: most of a solve of theirs is its fixed cost."""
        if self._waiting:
            assert self._selector is not None
            selections = self._selector.solve_many(torch.stack([scores for _, scores in self._waiting]))
            for (client, _), selection in zip(self._waiting, selections, strict=True):
                self._keep(client, selection)
            self._waiting.clear()

    def on_client_rows(self, rows: list[dict[str, Any]]) -> None:
        """Add the certificate of each client's mask to its row of the round."""
        for row in rows:
            if (certificate := self.certificates.get(row["client"])) is not None:
                row |= {
                    "mask/density": certificate.num_selected / self._size,
                    "mask/null": certificate.num_null / self._size,
                    "program/status": certificate.status,
                    "program/objective": certificate.objective,
                    "program/bound": certificate.upper_bound,
                    "program/gap": certificate.gap,
                    "program/core": certificate.core_size,
                    "program/seconds": certificate.total_seconds,
                }

    def _keep(self, client: Client, selection: Selection) -> None:
        client.mask = selection.packed
        self.certificates[client.id] = selection.certificate
