"""THE round loop: sample, train, select, exchange, aggregate, merge, evaluate, record.

Owns: the order of a round's steps (METHOD "One round") and what is recorded of them. Every rank runs this loop over
its own clients; ranks meet in `Exchange` and in the gathers of small records. Does not own: what a method does in
a step (methods/), how a client trains (local/), how updates travel (exchange/), where files lie (record.py).
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fedpurin import metrics
from fedpurin.config import Config, ConfigError
from fedpurin.exchange import Exchange, Processes
from fedpurin.exchange.network import Link, client_seconds, round_seconds
from fedpurin.hooks import MaskProvider, RunCallback
from fedpurin.local.client import Client, FitResult
from fedpurin.local.executor import SerialExecutor
from fedpurin.local.hooks import asks_for_trainer, one_line
from fedpurin.local.store import DeviceStore
from fedpurin.local.trainer import LocalTrainer
from fedpurin.methods import Method, Round
from fedpurin.metrics import VARIANTS
from fedpurin.seeding import numpy_generator
from fedpurin.space import unpack_mask

log = logging.getLogger(__name__)


class RunError(RuntimeError):
    """A failure inside a run: says rank, client, round and stage."""


@dataclass
class Federation:
    """One run's parts on this rank, and the loop over its rounds.

    `clients` are this rank's own; `num_train` counts every client's training samples; `links` are the clients'
    simulated ones, where there is a link model; `history` is every round's record so far (filled on rank 0);
    `moved_bytes` is what the simulator itself moved between ranks, known when the run has ended. `masks`
    solves the programs of methods that need masks; `store` keeps the clients that take no part.
    `fedpurin/hooks.py` declares the hooks that callbacks may have.
    """

    config: Config
    method: Method
    trainer: LocalTrainer
    executor: SerialExecutor
    exchange: Exchange
    processes: Processes
    run_dir: Path
    clients: dict[int, Client]
    num_train: Mapping[int, int]
    masks: MaskProvider | None = None
    store: DeviceStore = field(default_factory=DeviceStore)
    links: Sequence[Link] = ()
    first_round: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    moved_bytes: int = 0
    _named_idle: bool = field(default=False, init=False)

    def run(self) -> list[dict[str, Any]]:
        """Run the rounds that are left and return the history."""
        try:
            self._call("on_run_start")
            gc.freeze()  # a full collection looks at every object that was imported: 60 ms, once or twice a round
            for number in range(self.first_round, self.config.trainer.rounds):
                self.run_round(number)
                self._call("on_round_done", number=number)
            self.moved_bytes = sum(self.processes.gather_objects(self.processes.moved_bytes))
            self._call("on_run_end")
        except BaseException as error:
            self._call("on_run_failed", error=error)
            raise
        finally:
            gc.unfreeze()
        return self.history

    def run_round(self, number: int) -> None:
        """One round, METHOD steps 1 to 8."""
        start = time.perf_counter()
        evaluates = self._evaluates(number)

        # Who takes part.
        chosen = self._round(number, self._sample(number))
        self.store.fetch(chosen.clients)
        self.store.prefetch(self._next(number))
        self._call("on_round_start", this_round=chosen)
        self.exchange.begin_round(number, chosen.ids)
        self.method.begin(chosen, self.exchange, self.trainer.space.shared)

        # 1. Local training.
        fits: dict[int, FitResult] = {}
        for block in self.executor.blocks(chosen.clients):
            with self._stage("local training", block, number):
                before = [client.snapshot() for client in block]
                plans = [self.method.plan(client, number) for client in block]
                fits |= zip((client.id for client in block), self.executor.fit(block, plans, number), strict=True)
                for client, earlier in zip(block, before, strict=True):
                    if fits[client.id].diverged is not None:  # also what its earlier fits of the round left
                        client.restore(earlier)
                        self.method.sit_out(client)
                if evaluates:
                    self._evaluate([client for client in block if fits[client.id].diverged is None], "personalized")
            self._name_idle(block, fits, number)
            for client in block:
                self._call("on_client_end", client=client)

        # 2. and 3. Scores were taken when each fit ended; now every program has its mask.
        if self.masks is not None:
            self.masks.solve_masks()
        self._call("on_round_fits_end")

        # Clients that diverged keep their last good state and send nothing.
        this_round = self._round(number, self._without_diverged(chosen, fits))
        if evaluates and self.method.needs_masks:
            for block in self.executor.blocks(this_round.clients):
                with self._stage("sparse evaluation", block, number):
                    self._evaluate(block, "sparse")

        # 4. to 7. Upload, collaborators, aggregation, merge.
        self.exchange.begin_round(number, this_round.ids)
        method_metrics = self.method.communicate(this_round, self.exchange) if this_round.ids else {}

        # 8. Evaluation of what the merge made.
        if evaluates:
            for block in self.executor.blocks(this_round.clients):
                with self._stage("merged evaluation", block, number):
                    self._evaluate(block, "merged")

        self.store.put_back(chosen.clients)
        self._record(this_round, fits, method_metrics, time.perf_counter() - start)

    def _sample(self, number: int) -> list[int]:
        """The round's participants, ascending: everybody, or a draw without replacement."""
        everybody, wanted = self.config.partition.num_clients, self.config.trainer.clients_per_round
        if wanted is None:
            return list(range(everybody))
        draw = numpy_generator(self.config.seed, "participants", round_number=number)
        return sorted(int(client_id) for client_id in draw.choice(everybody, size=wanted, replace=False))

    def _round(self, number: int, ids: Sequence[int]) -> Round:
        own = [self.clients[client_id] for client_id in ids if client_id in self.clients]
        num_train = {client_id: self.num_train[client_id] for client_id in ids}
        return Round(number, self.config.partition.num_clients, tuple(ids), num_train, own, self.config.seed)

    def _next(self, number: int) -> list[Client]:
        """Own participants of the round after this one."""
        if number + 1 == self.config.trainer.rounds:
            return []
        return [self.clients[client_id] for client_id in self._sample(number + 1) if client_id in self.clients]

    def _name_idle(self, block: Sequence[Client], fits: Mapping[int, FitResult], number: int) -> None:
        """Say once a run and rank that somebody took no step: `training_step` may skip batches, but hardly all."""
        idle = [client.id for client in block if fits[client.id].num_steps == 0 and fits[client.id].diverged is None]
        if idle and not self._named_idle:
            self._named_idle = True
            log.warning(
                "client %d took no step in round %d: training_step returned None for all of its batches",
                idle[0],
                number + 1,
            )

    def _without_diverged(self, chosen: Round, fits: Mapping[int, FitResult]) -> list[int]:
        """Agree over all ranks on who of the chosen goes on, and name the others."""
        number, own = chosen.number, {i: fit.diverged for i, fit in fits.items() if fit.diverged is not None}
        if not self.processes.is_any(bool(own)):
            return list(chosen.ids)
        everywhere = {i: why for part in self.processes.gather_objects(own) for i, why in part.items()}
        diverged = dict(sorted(everywhere.items()))
        for client_id, why in diverged.items():
            message = f"client {client_id} diverged in round {number + 1}: {why}"
            if self.config.trainer.on_divergence == "stop":
                raise RunError(f"{message}; trainer.on_divergence=stop ends the run")
            if self.processes.rank == 0:
                log.warning("%s; it keeps its last good state and sends nothing this round", message)
        return [client_id for client_id in chosen.ids if client_id not in diverged]

    def _evaluates(self, number: int) -> bool:
        last = number == self.config.trainer.rounds - 1
        return last or number % self.config.trainer.evaluate_every == 0

    def _evaluate(self, clients: Sequence[Client], variant: str) -> None:
        """Measure one variant of the clients' models (METHOD step 8), each on its own test data."""
        vectors = [self._variant(client, variant) for client in clients]
        seen = [client.as_evaluated(variant) for client in clients]
        for client, measured in zip(clients, self.executor.evaluate(seen, vectors), strict=True):
            client.metrics |= {f"{stem}/{variant}": value for stem, value in measured.items()}

    def _variant(self, client: Client, variant: str) -> Tensor:
        if variant == "sparse":
            assert client.mask is not None, "the mask callback has run"
            sparse = client.vector.clone()
            shared = self.trainer.space.shared.length
            sparse[:shared] *= unpack_mask(client.mask)
            return sparse
        return self.method.merged(client) if variant == "merged" else self.method.personalized(client)

    def _record(
        self, this_round: Round, fits: Mapping[int, FitResult], method_metrics: Mapping[str, float], seconds: float
    ) -> None:
        """Gather the ranks' rows and hand the round's record to whoever listens on rank 0."""
        sent = self.exchange.ledger.client_rows(this_round.number)
        rows, measured = [], {client_id: client.metrics for client_id, client in self.clients.items()}
        for client_id, fit in sorted(fits.items()):
            row: dict[str, Any] = {"round": this_round.number, "client": client_id, "rank": self.processes.rank}
            row |= {"num_train": self.num_train[client_id], "loss/train": fit.loss, "fit/seconds": fit.seconds}
            row |= {"diverged": fit.diverged or ""} | sent.get(client_id, {})
            if self._evaluates(this_round.number):
                row |= self.clients[client_id].metrics
            rows.append(row)
        self._call("on_client_rows", rows=rows)
        gathered = self.processes.gather_objects((rows, measured, self.exchange.ledger.round_totals(this_round.number)))
        if self.processes.rank != 0:
            return
        rows = sorted((row for part, _, _ in gathered for row in part), key=lambda row: int(row["client"]))
        latest = {client_id: values for _, part, _ in gathered for client_id, values in part.items()}
        trainer = self.config.trainer
        record = summarise_round(
            this_round,
            rows,
            latest,
            self._evaluates(this_round.number),
            monitor=trainer.monitor,
            mode=trainer.monitor_mode,
        )
        for _, _, totals in gathered:
            for name, value in totals.items():
                record[name] = record.get(name, 0) + value
        if self.links:
            by_client = {int(row["client"]): row for row in rows if not row["diverged"]}
            for client_id, taken in client_seconds(by_client, self.links).items():
                by_client[client_id]["network/seconds"] = taken
            record["network/seconds"] = round_seconds(by_client, self.links)
        record.update(method_metrics)
        record["round/seconds"] = seconds
        self._call("on_round_columns", record=record, rows=rows)
        self.history.append(record)
        self._call("on_round_end", record=record, rows=rows)

    @contextmanager
    def _stage(self, stage: str, block: Sequence[Client], number: int) -> Iterator[None]:
        """Say where a failure happened."""
        try:
            yield
        except ConfigError:
            raise
        except Exception as error:
            who = ", ".join(str(client.id) for client in block)
            where = f"rank {self.processes.rank}, client {who}, round {number + 1}, {stage}"
            if asks_for_trainer(error):
                raise ConfigError(f"model: {where}: {one_line(error)}") from error
            raise RunError(f"{where}: {type(error).__name__}: {error}") from error

    def _call(self, hook: str, **arguments: Any) -> None:
        if any(_listens(callback, hook) for callback in self.trainer.fabric._callbacks):  # Fabric reads signatures
            self.trainer.fabric.call(hook, federation=self, **arguments)


def _listens(callback: Any, hook: str) -> bool:
    return hook in vars(callback) or getattr(type(callback), hook, None) not in (None, getattr(RunCallback, hook))


def summarise_round(
    this_round: Round,
    rows: Sequence[Mapping[str, Any]],
    latest: Mapping[int, Mapping[str, float]],
    evaluated: bool,
    *,
    monitor: str | None = None,
    mode: str = "max",
) -> dict[str, Any]:
    """A round's record from its clients' rows.

    Measured values are means over all clients that have been measured: one that sat out has not changed since. The
    accuracy and the headline also have the worst and the best client.
    Losses are means over the clients that fitted without diverging.
    """
    fitted = [row for row in rows if not row["diverged"]]
    record: dict[str, Any] = {
        "round": this_round.number,
        "clients/participating": len(rows),
        "clients/diverged": len(rows) - len(fitted),
        "loss/train": _mean([row["loss/train"] for row in fitted]),
    }
    names = {name for values in latest.values() for name in values}
    stems, headline = metrics.measured_stems(names) or [metrics.ACCURACY], metrics.headline(monitor, names)
    for stem in stems if evaluated else ():
        for variant in VARIANTS:
            name = f"{stem}/{variant}"
            values = [measured[name] for measured in latest.values() if name in measured]
            if stem in (metrics.ACCURACY, headline):
                record[name] = _mean(values)
                ends = metrics.spread(values, mode if stem == headline else "max")
                record |= {f"{name}/{end}": value for end, value in ends.items()}
            elif values:
                record[name] = _mean(values)
    if any("program/gap" in row for row in rows):
        record["mask/density"] = _mean([row["mask/density"] for row in fitted])
        record["program/gap"] = max(row["program/gap"] for row in fitted)
        record["program/seconds"] = math.fsum(row["program/seconds"] for row in fitted)
    return record


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
