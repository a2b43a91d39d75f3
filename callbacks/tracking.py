"""Experiment trackers: W&B and TensorBoard, each in a thread of its own, so that a run neither waits nor fails for one.

Rank 0 hands every round to a queue; a thread starts the service, fills in what an earlier start or a dead service
left out, and logs. Whatever it raises is one warning, and the run goes on: the run folder stays complete and
`fedpurin sync RUN_DIR` uploads it later.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fedpurin.config import Config
from fedpurin.federation import Federation
from fedpurin.hooks import RunCallback
from fedpurin.run.interruption import Interrupted
from fedpurin.run.reader import MASKS, read_ends
from fedpurin.run.record import summarise_run
from fedpurin.tracking import wandb_run, wandb_service

log = logging.getLogger(__name__)

QUEUED_ROUNDS = 10_000
SPARE_BYTES = 2**18
INTERRUPTED_SECONDS = 10.0  # between a signal and the end of the job there is little time


class Tracker(RunCallback):
    """The thread and its queue. A service fills in `open`, `log` and `close`, which run in the thread."""

    service = "tracker"

    def __init__(self, finish_seconds: float = 60.0) -> None:
        """`finish_seconds`: how long the end of a run may wait for the service."""
        self.finish_seconds = finish_seconds
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=QUEUED_ROUNDS)
        self._thread: threading.Thread | None = None
        self._failed = False
        self._traffic = 0
        self.run_dir: Path

    def open(self, config: Config, run_dir: Path, first_round: int) -> None:
        """Start the service, and bring it up to the rounds before `first_round`."""
        raise NotImplementedError

    def log(self, payload: Mapping[str, Any]) -> None:
        """Log one round (`wandb_run.make_payload`)."""
        raise NotImplementedError

    def close(self, summary: Mapping[str, Any] | None, error: BaseException | None) -> None:
        """End with a finished run's summary, or with what ended it."""
        raise NotImplementedError

    def give_up(self) -> None:
        """Drop what is left of a service that failed."""

    def on_run_start(self, federation: Federation) -> None:
        if federation.processes.rank != 0:
            return
        self.run_dir, config, first = federation.run_dir, federation.config, federation.first_round
        self._traffic = sum(_traffic(record) for record in federation.history)
        self._thread = threading.Thread(target=self._work, name=self.service, daemon=True)
        self._thread.start()
        self._put(lambda: self.open(config, self.run_dir, first))

    def on_round_end(
        self, federation: Federation, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        self._traffic += _traffic(record)
        last = record["round"] == federation.config.trainer.rounds - 1
        masks = self._masks(record["round"])
        payload = wandb_run.make_payload(record, rows, masks, traffic=self._traffic, last=last)
        self._put(lambda: self.log(payload))

    def on_run_end(self, federation: Federation) -> None:
        ledger = federation.exchange.ledger.gather(federation.processes)
        if federation.processes.rank == 0:
            totals = {f"ledger/{name}": count for name, count in ledger.cumulative().items()}
            summary = {**summarise_run(federation), **totals}
            self._put(lambda: self.close(summary, None))
            self._wait(self.finish_seconds)

    def on_run_failed(self, error: BaseException) -> None:
        if self._thread is not None:
            self._put(lambda: self.close(None, error))
            self._wait(INTERRUPTED_SECONDS)

    def _put(self, job: Callable[[], None]) -> None:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._give_up("it does not keep up")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not self._failed:
                try:
                    job()
                except BaseException as error:  # W&B also raises what is no Exception; nothing may reach the run
                    self._give_up(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")

    def _wait(self, seconds: float) -> None:
        self._jobs.put(None)
        assert self._thread is not None
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._give_up(f"it did not finish within {seconds:.0f} s")
        self._thread = None

    def _give_up(self, why: str) -> None:
        if not self._failed:
            self._failed = True
            self.give_up()
            log.warning("%s: %s; the run goes on without it, %s is complete", self.service, why, self.run_dir)

    def _masks(self, number: int) -> dict[str, Any]:
        """This round's line of `masks.jsonl`, which its callback has just written, and the tensors' names."""
        header, line = read_ends(self.run_dir / MASKS)
        return wandb_run.name_tensors(line, header) if line.get("round") == number else {}


class WandbTracker(Tracker):
    """Weights & Biases; one W&B run for each run folder, however often it is resumed."""

    service = "W&B"

    def __init__(
        self,
        project: str = "fedpurin",
        entity: str | None = None,
        group: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        log_model: bool = False,
        finish_seconds: float = 60.0,
    ) -> None:
        """
        Args:
            project: where on W&B.
            entity: whose project; None takes the login's own.
            group: None takes the sweep that the run belongs to, else its name.
            mode: None: WANDB_MODE, else online with a login and a network, else offline.
            log_model: upload the last checkpoint as an artifact when the run has finished.
            finish_seconds: how long the end of a run may wait for W&B.
        """
        super().__init__(finish_seconds)
        if mode not in (None, "online", "offline", "disabled"):
            raise ValueError(f"mode={mode} is not possible: online, offline or disabled")
        self.project, self.entity, self.group, self.mode, self.log_model = project, entity, group, mode, log_model
        self._run: Any
        self._known: set[int] = set()

    def open(self, config: Config, run_dir: Path, first_round: int) -> None:
        mode = wandb_service.choose_mode(self.mode)
        options: dict[str, Any] = {"project": self.project, "entity": self.entity, "group": self.group}
        if mode == "online" and (why := wandb_service.why_not_online()):
            mode = self._stay_offline(why)
        elif mode == "offline" and self.mode is None and not os.environ.get("WANDB_MODE"):
            self._stay_offline("there is no login (`wandb login`, or WANDB_API_KEY)")  # nobody asked for that
        try:
            self._run = wandb_run.open_run(config, run_dir, mode=mode, **options)
        except Exception as error:  # the server refused, or an earlier run left W&B's process dead
            if mode == "online":
                mode = self._stay_offline(_one_line(error))
            wandb_service.forget_process()
            self._run = wandb_run.open_run(config, run_dir, mode=mode, **options)
        if self._run.resumed:
            self._known = set(wandb_run.uploaded_rounds(self._run))
        elif first_round and mode == "offline":
            self._known = wandb_run.recorded_rounds(wandb_run.wandb_folders(run_dir))
        wandb_run.replay(self._run, run_dir, self._known, until=first_round)

    def log(self, payload: Mapping[str, Any]) -> None:
        if payload["round"] not in self._known:
            wandb_run.log_round(self._run, payload)

    def close(self, summary: Mapping[str, Any] | None, error: BaseException | None) -> None:
        if isinstance(error, Interrupted):
            self._run.mark_preempting()
        if summary is not None:
            self._run.summary.update({name: value for name, value in summary.items() if value is not None})
            if self.log_model:
                self._upload_model()
        folder = Path(self._run.dir)
        self._run.finish(exit_code=0 if error is None or isinstance(error, Interrupted) else 1)
        if folder.exists() and shutil.disk_usage(folder).free < SPARE_BYTES:  # W&B itself says nothing of that
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}; its files may lack rounds", str(folder.parent))

    def give_up(self) -> None:
        wandb_service.kill_process()
        # Its client is told in a thread: whatever it still waits for, the run does not.
        threading.Thread(target=wandb_service.forget_process, daemon=True).start()

    def _stay_offline(self, why: str) -> str:
        log.warning("W&B: %s; recording offline, upload later: fedpurin sync %s", why, self.run_dir)
        return "offline"

    def _upload_model(self) -> None:
        import wandb

        newest = max((self.run_dir / "checkpoints").glob("round-*"), default=None)
        if newest is None:
            raise ValueError("logger.wandb.log_model=true needs a checkpoint; set checkpoint.every")
        artifact = wandb.Artifact(f"clients-{self._run.id}", type="model")
        artifact.add_dir(str(newest))
        artifact.add_file(str(self.run_dir / "config.yaml"))
        self._run.log_artifact(artifact)


class TensorBoardTracker(Tracker):
    """TensorBoard event files in the run folder's `tensorboard/`."""

    service = "TensorBoard"

    def open(self, config: Config, run_dir: Path, first_round: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = {"purge_step": first_round} if first_round else {}  # rounds that an earlier start logged and lost
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), **purge)
        self._writer.add_text("config", f"```yaml\n{(run_dir / 'config.yaml').read_text(encoding='utf-8')}\n```")

    def log(self, payload: Mapping[str, Any]) -> None:
        for name, value in wandb_run.scalars(payload).items():
            if isinstance(value, int | float) and name != "round":
                self._writer.add_scalar(name, value, payload["round"])
        for name, pixels in wandb_run.pictures(payload).items():
            self._writer.add_image(name, pixels, payload["round"], dataformats="HWC")
        self._writer.flush()

    def close(self, summary: Mapping[str, Any] | None, error: BaseException | None) -> None:
        self._writer.close()


def _traffic(record: Mapping[str, Any]) -> int:
    return int(record.get("bytes/up", 0) + record.get("bytes/down", 0))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
