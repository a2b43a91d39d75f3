"""Trackers: W&B's files read with W&B's own tool, resumed and broken; TensorBoard; nothing ends or slows a run."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from callbacks.tracking import Tracker, WandbTracker
from fedpurin.config import Config
from fedpurin.run.compose import compose_config
from fedpurin.tracking import wandb_run, wandb_service
from tests.methods.tiny import simulate

pytestmark = pytest.mark.usefixtures("no_login")


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


def test_a_run_that_is_offline_for_want_of_a_login_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def said(name: str, *options: str) -> list[str]:
        caplog.clear()
        simulate(tmp_path / name, "method=local", "trainer.rounds=1", "logger=wandb", *options)
        return [record.message for record in caplog.records if "recording offline" in record.message]

    assert said("a") == [
        "W&B: there is no login (`wandb login`, or WANDB_API_KEY); recording offline, upload later: fedpurin sync "
        f"{tmp_path / 'a'}"
    ]
    assert said("b", "logger.wandb.mode=offline") == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert said("c") == []


def test_a_run_that_wandb_missed_is_filled_in(tmp_path: Path) -> None:
    options = ("method=local", "checkpoint.every=1")
    simulate(tmp_path, *options, "trainer.rounds=2")
    simulate(tmp_path, *options, "trainer.rounds=3", "resume=auto", "logger=wandb")
    assert histories(tmp_path) == [[0, 1, 2]]


def test_wandb_may_be_open_before_the_first_round_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = threading.Event()

    class Opened(WandbTracker):
        def open(self, config: Config, run_dir: Path, first_round: int) -> None:
            super().open(config, run_dir, first_round)
            opened.set()

    class Waits:
        def on_client_end(self) -> None:
            assert opened.wait(30)

    simulate(tmp_path, "method=local", callbacks=[Opened(mode="offline"), Waits()])
    assert histories(tmp_path) == [[0, 1]]
    assert "W&B: " not in caplog.text


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


class Timed(WandbTracker):
    """Knows how long W&B took to open a run."""

    seconds = float("inf")

    def open(self, config: Config, run_dir: Path, first_round: int) -> None:
        start = time.monotonic()
        super().open(config, run_dir, first_round)
        self.seconds = time.monotonic() - start


def log_in(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", server)


@contextlib.contextmanager
def listening(answers: bytes | None, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of somebody that accepts every connection, and says the same to everyone, or nothing."""
    held = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                if tls is not None:
                    try:
                        connection = tls.wrap_socket(connection, server_side=True)
                    except OSError:  # whoever asked trusts nobody here
                        continue
                held.append(connection)
                if answers is not None:
                    asked = connection.recv(65536)
                    while tls is not None and asked and b"viewer" not in asked:  # its body is a record of its own
                        asked = connection.recv(65536)
                    connection.sendall(answers)
                    connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 7\r\nConnection: close\r\n\r\n<html/>"
REFUSAL = (
    b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
)


@pytest.mark.parametrize(("answer", "why"), [(None, "does not answer from here; "), (REFUSAL, "")])
def test_a_silent_or_refusing_server_is_an_offline_run_within_twenty_seconds(
    answer: bytes | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Timed()
    with listening(answer) as address:
        log_in(monkeypatch, address)
        simulate(tmp_path, "method=local", callbacks=[tracker])
    assert tracker.seconds < 20
    assert histories(tmp_path) == [[0, 1]]
    [warning] = [record.message for record in caplog.records if "recording offline" in record.message]
    assert warning.endswith(f"{why}recording offline, upload later: fedpurin sync {tmp_path}")


@pytest.mark.slow
def test_a_server_that_answers_and_then_falls_silent_costs_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst: all of the probe's time passes, and all of the start's."""

    monkeypatch.setattr(wandb_service, "_probe", lambda: time.sleep(wandb_service.PROBE_SECONDS))
    tracker = Timed()
    with listening(None) as address:
        log_in(monkeypatch, address)
        simulate(tmp_path, "method=local", callbacks=[tracker])
    assert wandb_service.PROBE_SECONDS + wandb_service.INIT_SECONDS < tracker.seconds < 45  # a busy machine included
    assert histories(tmp_path) == [[0, 1]]


@pytest.mark.parametrize(("answers", "reachable"), [(None, False), (PAGE, False), (b"", False), (REFUSAL, True)])
@pytest.mark.parametrize("through_proxy", [False, True])
def test_only_a_w_and_b_answer_counts(
    monkeypatch: pytest.MonkeyPatch, answers: bytes | None, reachable: bool, through_proxy: bool
) -> None:
    monkeypatch.setattr(wandb_service, "PROBE_SECONDS", 1.0)
    with listening(answers) as address:
        log_in(monkeypatch, "http://wandb.invalid" if through_proxy else address)
        if through_proxy:
            monkeypatch.setenv("http_proxy", address)
        start = time.monotonic()
        assert (wandb_service.why_not_online() is None) == reachable
        assert time.monotonic() - start < 5


def test_a_machine_without_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_service, "PROBE_SECONDS", 1.0)
    log_in(monkeypatch, "http://192.0.2.1")  # a documentation address: packets vanish
    assert wandb_service.why_not_online() == "http://192.0.2.1 does not answer from here"


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
@pytest.mark.parametrize("said", [{}, {"SSL_CERT_FILE": "certificate"}, {"WANDB_INSECURE_DISABLE_SSL": "true"}])
def test_a_certificate_is_verified_unless_the_user_says_otherwise(
    said: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_service, "PROBE_SECONDS", 60.0)
    with listening(REFUSAL, make_certificate(tmp_path)) as address:
        log_in(monkeypatch, address)
        for name, value in said.items():
            monkeypatch.setenv(name, value.replace("certificate", str(tmp_path / "both.pem")))
        why = wandb_service.why_not_online()
    if said:
        assert why is None
    else:
        assert why is not None
        assert why.startswith(f"{address}: its certificate is not trusted (self")
        assert why.endswith("or set WANDB_INSECURE_DISABLE_SSL=true to trust whoever answers")


def make_certificate(folder: Path) -> ssl.SSLContext:
    """Of an authority that nobody knows, for 127.0.0.1."""
    both = folder / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "own.pem"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    both.write_text((folder / "key.pem").read_text() + (folder / "own.pem").read_text())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context


def test_the_login_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wandb_service.has_login()
    assert wandb_service.choose_mode(None) == "offline"
    Path(os.environ["NETRC"]).write_text("machine api.wandb.ai login user password secret\n")
    assert wandb_service.has_login()
    assert wandb_service.choose_mode(None) == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_service.choose_mode(None) == "disabled"


def test_the_login_of_an_own_server_is_found() -> None:
    Path(os.environ["WANDB_CONFIG_DIR"], "settings").write_text("[default]\nbase_url = https://wandb.example\n")
    Path(os.environ["NETRC"]).write_text("machine api.wandb.ai login user password secret\n")
    assert not wandb_service.has_login()
    Path(os.environ["NETRC"]).write_text("machine wandb.example login user password secret\n")
    assert wandb_service.has_login()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A run folder whose `wandb/` is a disk of two MiB."""
    run_dir = tmp_path / "run"
    disk = run_dir / "wandb"
    disk.mkdir(parents=True)
    mounting = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        subprocess.run(mounting, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("cannot mount a disk here")
    try:
        yield run_dir
    finally:
        wandb_service.forget_process()
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize(("method", "left_kib"), [("local", 0), ("local", 32), ("fedpurin", 0), ("fedpurin", 64)])
def test_a_full_disk_for_wandb_is_one_warning(
    small_disk: Path,
    method: str,
    left_kib: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (small_disk / "wandb/filler").write_bytes(bytes((2048 - left_kib) * 1024))
    result = simulate(small_disk, f"method={method}", "logger=wandb", "logger.wandb.mode=offline", "trainer.rounds=5")
    assert result.summary["status"] == "finished"
    assert len((small_disk / "metrics.jsonl").read_text().splitlines()) == 5
    assert len((small_disk / "clients.csv").read_text().splitlines()) == 1 + 5 * 4
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    (warning,) = [message for message in warnings if message.startswith("W&B: ")]
    assert "No space left on device" in warning
    assert "Traceback" not in capfd.readouterr().err


def test_tensorboard_gets_scalars_and_forgets_lost_rounds(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = ("method=fedpurin", "logger=tensorboard", "checkpoint.every=1")
    simulate(tmp_path, *options, "trainer.rounds=2")
    simulate(tmp_path, *options, "trainer.rounds=3", "resume=auto")
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("accuracy/personalized")] == [0, 1, 2]
    assert [event.step for event in events.Scalars("mask/density/000")] == [0, 1, 2]
    assert [event.step for event in events.Images("mask/density/by_tensor")] == [0, 1, 2]


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
