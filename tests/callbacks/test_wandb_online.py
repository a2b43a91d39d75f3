"""W&B's own client against a stand-in for its server: what arrives of runs that are resumed, killed, cut off, swept."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fedpurin.cli import sync
from fedpurin.run.lock import RunLock
from fedpurin.tracking import wandb_run
from tests.callbacks.wandb_server import StoredRun, WandbServer
from tests.methods.tiny import simulate

ROOT = Path(__file__).parents[2]
ONLINE = ("method=fedpurin", "logger=wandb", "checkpoint.every=1")
HALFWAY = """
import logging, sys, time
from pathlib import Path
from tests.methods.tiny import simulate

class Wait:
    def on_round_end(self, record, rows):
        while record["round"] == 7 and not Path(sys.argv[1], "go on").exists():
            time.sleep(0.05)

logging.basicConfig(level=logging.WARNING)
simulate(Path(sys.argv[1]), *sys.argv[2:], callbacks=[Wait()])
"""
OPTIONS = ("method=fedpurin", "logger=wandb", "checkpoint.every=3", "trainer.rounds=12")
"""Of the run above: round 7 ends when there is a file `go on`, six rounds are in a checkpoint."""


@contextlib.contextmanager
def waiting_run(run_dir: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """A run in a process group of its own, killed in the end."""
    command = [sys.executable, "-c", HALFWAY, str(run_dir), *OPTIONS, *overrides]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def only(server: WandbServer) -> StoredRun:
    (run,) = server.runs.values()
    return run


def test_every_round_arrives_once_with_its_pictures_and_the_model(server: WandbServer, tmp_path: Path) -> None:
    simulate(tmp_path, *ONLINE, "trainer.rounds=3", "tags=[study]", "logger.wandb.log_model=true")
    run = only(server)
    assert run.rounds == [0, 1, 2]
    assert (run.exit_code, run.tags, run.group) == (0, ["study", "FedPURIN", "own-data"], "fedpurin-own-data")
    assert run.config["program"]["value"]["tau"] == 0.5
    first, second, last = run.history
    local = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert first["accuracy/personalized"] == local[0]["accuracy/personalized"]
    assert last["bytes/cumulative"] == sum(record["bytes/up"] + record["bytes/down"] for record in local)
    assert not any(name.startswith("mask/overlap") for name in second)
    for name in ("mask/overlap", "mask/density/by_tensor", "clients"):
        assert first[name]["path"] in run.files
    assert run.files[first["mask/density/by_tensor"]["path"]].startswith(b"\x89PNG")
    assert run.summary["ledger/bytes/up"] == sum(record["bytes/up"] for record in local)
    (model,) = [artifact for artifact in server.artifacts.values() if artifact.type == "model"]
    assert model.committed
    assert {"config.yaml", "manifest.json"} <= model.names


def test_a_resumed_run_goes_on_in_the_same_one(
    server: WandbServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    simulate(tmp_path, *ONLINE, "trainer.rounds=2")
    simulate(tmp_path, *ONLINE, "trainer.rounds=4", "resume=auto")
    assert only(server).rounds == [0, 1, 2, 3]
    assert "W&B" not in caplog.text
    assert "will be ignored" not in capfd.readouterr().err  # W&B has not been sent again what it has


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_same_one(server: WandbServer, tmp_path: Path) -> None:
    with waiting_run(tmp_path) as process:  # the client sends what it has every fifteen seconds

        def kill(run: StoredRun) -> None:
            if run.rounds:
                os.killpg(process.pid, signal.SIGKILL)

        server.on_stream = kill
        assert process.wait(120) == -signal.SIGKILL
    server.on_stream = lambda _: None
    assert only(server).rounds == [0, 1, 2, 3, 4, 5]
    (tmp_path / "go on").touch()
    simulate(tmp_path, *OPTIONS, "resume=auto")
    assert only(server).rounds == list(range(12))
    assert only(server).exit_code == 0


@pytest.mark.slow
def test_a_server_that_vanishes_is_one_warning_and_a_later_sync(server: WandbServer, tmp_path: Path) -> None:
    def vanish(run: StoredRun) -> None:
        if run.rounds:
            server.on_stream = lambda _: None
            threading.Thread(target=stop_and_go_on).start()

    def stop_and_go_on() -> None:
        server.stop()
        (tmp_path / "go on").touch()

    server.on_stream = vanish
    with waiting_run(tmp_path, "logger.wandb.finish_seconds=3") as process:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0
    assert errors.count("WARNING") == 1, errors
    assert "W&B: it did not finish within 3 s; the run goes on without it" in errors
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 12
    assert only(server).rounds == [0, 1, 2, 3, 4, 5]
    server.start()
    for _ in range(2):
        assert sync.main([str(tmp_path)]) == 0
        assert only(server).rounds == list(range(12))
    assert only(server).exit_code == 0


@pytest.mark.slow
def test_offline_files_are_uploaded_whole_and_once(server: WandbServer, tmp_path: Path) -> None:
    offline = (*ONLINE, "logger.wandb.mode=offline")
    simulate(tmp_path, *offline, "trainer.rounds=2")
    simulate(tmp_path, *offline, "trainer.rounds=3", "resume=auto")
    assert server.runs == {}
    for _ in range(2):
        assert sync.main([str(tmp_path)]) == 0
        assert only(server).rounds == [0, 1, 2]
    assert only(server).history[0]["mask/density/by_tensor"]["path"] in only(server).files
    simulate(tmp_path, *offline, "trainer.rounds=4", "resume=auto")
    assert sync.main([str(tmp_path)]) == 0
    assert only(server).rounds == [0, 1, 2, 3]
    assert only(server).name == wandb_run.identity(tmp_path)["id"]


@pytest.mark.slow
@pytest.mark.parametrize("recorded", [False, True])
def test_a_server_that_vanishes_during_a_sync_ends_it_with_a_line(
    recorded: bool, server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("method=fedpurin", *(["logger=wandb", "logger.wandb.mode=offline"] if recorded else []))
    simulate(tmp_path, *options, "trainer.rounds=2")
    server.on_stream = lambda _: threading.Thread(target=server.stop).start()
    started = time.monotonic()
    assert sync.main(["--timeout", "2", str(tmp_path)]) == 1
    assert time.monotonic() - started < 60
    assert "OSError: W&B's server has not answered for 2 s" in capsys.readouterr().err
    server.on_stream = lambda _: None
    server.start()
    assert sync.main([str(tmp_path)]) == 0
    assert only(server).rounds == [0, 1]


def test_what_wandb_missed_is_replayed_once(server: WandbServer, tmp_path: Path) -> None:
    missed = ("method=fedpurin", "checkpoint.every=1")
    simulate(tmp_path, *missed, "trainer.rounds=2")
    for _ in range(2):
        assert sync.main([str(tmp_path)]) == 0
        assert only(server).rounds == [0, 1]
    simulate(tmp_path, *missed, "trainer.rounds=3", "resume=auto")
    assert sync.main([str(tmp_path)]) == 0
    run = only(server)
    assert run.rounds == [0, 1, 2]
    assert run.history[0]["mask/overlap"]["path"] in run.files
    assert (run.summary["status"], run.exit_code) == ("finished", 0)


def test_a_run_that_is_offline_first_and_online_then_has_all_rounds(server: WandbServer, tmp_path: Path) -> None:
    simulate(tmp_path, *ONLINE, "logger.wandb.mode=offline", "trainer.rounds=2")
    simulate(tmp_path, *ONLINE, "trainer.rounds=3", "resume=auto")
    assert only(server).rounds == [0, 1, 2]


def test_a_run_that_is_online_now_is_not_synced(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(tmp_path, *ONLINE)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert sync.main([str(tmp_path)]) == 1
    assert "is being tracked online; sync it once it has ended" in capsys.readouterr().err
    lock.release()
    assert sync.main([str(tmp_path)]) == 0


@pytest.mark.slow
def test_an_agent_trains_what_the_sweep_file_says(server: WandbServer, tmp_path: Path) -> None:
    server.sweep = yaml.safe_load((ROOT / "configs/sweeps/tau.yaml").read_text())
    values = {"program.tau": 0.3, "seed": 2, "data": "digits", "partition.num_clients": 3, "trainer.rounds": 1}
    arguments = {name: {"value": value} for name, value in values.items()}
    server.queue = [{"type": "run", "run_id": "swept", "program": "fedpurin", "args": arguments}]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # an agent starts the `python` that it finds
    agent = subprocess.run(
        [sys.executable, "-m", "wandb", "agent", "--count", "1", "tester/fedpurin/sweep1"],
        cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    run_dir = tmp_path / "multirun/tau/swept"
    assert (run_dir / "summary.json").exists(), agent.stderr
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "finished"
    run = only(server)
    assert (run.name, run.sweep, run.rounds, run.exit_code) == ("swept", "sweep1", [0], 0)
    assert run.config["program"]["value"]["tau"] == 0.3
    assert run.history[0]["accuracy/personalized"] > 0
