"""Trackers: W&B's files read with W&B's own tool, resumed and broken; TensorBoard; nothing ends or slows a run."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from callbacks.tracking import Tracker, WandbTracker
from fedpurin import wandb_run
from fedpurin.compose import compose_config
from tests.methods.tiny import simulate


@pytest.fixture(autouse=True)
def _without_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("WANDB_") or name.lower() in ("https_proxy", "all_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def inspect(folder: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in listing.splitlines()]


def histories(run_dir: Path) -> list[list[int]]:
    """The rounds in each of W&B's folders of this run."""
    found = []
    for folder in wandb_run.wandb_folders(run_dir):
        items = [record["history"]["item"] for record in inspect(folder) if record["type"] == "history"]
        if items:  # a start that fell back leaves an empty folder
            found.append([item["round"] for item in items])
        assert all(item["_step"] == item["round"] for item in items)
    return found


def test_every_choice_of_loggers_composes() -> None:
    assert compose_config(["logger=csv"])[0].logger == {}
    assert compose_config(["logger=wandb"])[0].logger.keys() == {"wandb"}
    assert compose_config(["logger=[csv,tensorboard,wandb]"])[0].logger.keys() == {"tensorboard", "wandb"}
    assert compose_config(["logger=[csv,wandb]", "logger.wandb.project=p"])[0].logger["wandb"]["project"] == "p"


def test_wandb_holds_every_round_once_across_a_resume(tmp_path: Path) -> None:
    options = ("method=fedpurin", "logger=[csv,wandb]", "checkpoint.every=1", "tags=[study]")
    simulate(tmp_path, *options, "trainer.rounds=2")
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"torn')
    simulate(tmp_path, *options, "trainer.rounds=3", "resume=auto")
    assert histories(tmp_path) == [[0, 1], [2]]
    folders = wandb_run.wandb_folders(tmp_path)
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1
    records = inspect(folders[0])
    run = next(record["run"] for record in records if record["type"] == "run")
    assert run["tags"] == ["study", "FedPURIN", "own-data"]
    assert run["config"]["update"]["program"]["tau"] == 0.5
    assert "git_revision" in run["config"]["update"]
    item = next(record["history"]["item"] for record in records if record["type"] == "history")
    local = json.loads(metrics.read_text().splitlines()[0])
    assert item["accuracy/personalized"] == local["accuracy/personalized"]
    assert item["bytes/cumulative"] == local["bytes/up"] + local["bytes/down"]
    assert any(name.startswith("mask/density/") for name in item)
    assert any(name.startswith("mask/overlap") for name in item)
    assert any(name.startswith("clients") for name in item)
    assert any(record["type"] == "metric" and record["metric"].get("step_metric") == "round" for record in records)


def test_a_run_that_wandb_missed_is_filled_in(tmp_path: Path) -> None:
    options = ("method=local", "checkpoint.every=1")
    simulate(tmp_path, *options, "trainer.rounds=2")
    simulate(tmp_path, *options, "trainer.rounds=3", "resume=auto", "logger=wandb")
    assert histories(tmp_path) == [[0, 1, 2]]


class Broken(Tracker):
    """A service that fails or hangs where it is told to."""

    service = "Broken"

    def __init__(self, where: str, hangs: bool = False) -> None:
        super().__init__(finish_seconds=0.5)
        self.where, self.hangs = where, hangs

    def _break(self, where: str) -> None:
        if where == self.where:
            if self.hangs:
                time.sleep(30)
            raise OSError(28, "No space left on device")

    def open(self, *_: Any) -> None:
        self._break("open")

    def log(self, payload: Mapping[str, Any]) -> None:
        self._break("log")

    def close(self, *_: Any) -> None:
        self._break("close")


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("where", ["open", "log", "close"])
def test_a_broken_service_is_one_warning(
    tmp_path: Path, where: str, hangs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    start = time.monotonic()
    result = simulate(tmp_path, "method=local", callbacks=[Broken(where, hangs)])
    assert result.summary["status"] == "finished"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len([message for message in warnings if message.startswith("Broken: ")]) == 1
    assert "the run goes on without it" in "".join(warnings)
    assert time.monotonic() - start < 25


def test_a_dead_wandb_process_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class KillsWandb(WandbTracker):
        def log(self, payload: Mapping[str, Any]) -> None:
            super().log(payload)
            if payload["round"] == 0:
                for child in children_named("wandb-core"):
                    os.kill(child, 9)
                time.sleep(0.5)

    start = time.monotonic()
    result = simulate(tmp_path, "method=local", "trainer.rounds=4", callbacks=[KillsWandb(finish_seconds=5)])
    assert result.summary["status"] == "finished"
    assert "W&B: " in caplog.text
    assert time.monotonic() - start < 40


def children_named(name: str) -> list[int]:
    """This process's own children of that name."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if fields.get("Name") == name and fields.get("PPid") == str(os.getpid()):
            found.append(int(fields["Pid"]))
    return found


def test_a_key_without_a_network_falls_back_within_twenty_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert wandb_run.has_login()
    monkeypatch.setenv("WANDB_BASE_URL", "http://192.0.2.1")  # a documentation address: packets vanish
    start = time.monotonic()
    assert wandb_run.choose_mode(None) == "offline"
    assert time.monotonic() - start < 20
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert wandb_run.choose_mode("online") == "offline"


@pytest.mark.slow
def test_a_server_that_answers_and_refuses_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never says a word
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        simulate(tmp_path, "method=local", "logger=wandb")
    assert histories(tmp_path) == [[0, 1]]


def test_the_login_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not wandb_run.has_login()
    assert wandb_run.choose_mode(None) == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert wandb_run.has_login()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_run.choose_mode(None) == "disabled"


def test_tensorboard_gets_scalars_and_forgets_lost_rounds(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = ("method=fedpurin", "logger=tensorboard", "checkpoint.every=1")
    simulate(tmp_path, *options, "trainer.rounds=2")
    simulate(tmp_path, *options, "trainer.rounds=3", "resume=auto")
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("accuracy/personalized")] == [0, 1, 2]


def test_sync_replays_what_wandb_lacks(tmp_path: Path) -> None:
    simulate(tmp_path, "method=fedpurin", "trainer.rounds=3")

    class Server:
        def __init__(self) -> None:
            self.steps: list[int] = []

        def log(self, values: Mapping[str, Any], step: int) -> None:
            assert values["round"] == step
            self.steps.append(step)

    server = Server()
    assert wandb_run.replay(server, tmp_path, known=range(1)) == 2
    assert server.steps == [1, 2]
