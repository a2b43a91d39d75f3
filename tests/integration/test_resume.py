"""A run that was stopped, killed or extended ends with the bits of one that never was."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

import fedpurin
from fedpurin.run.checkpoint import find_all
from fedpurin.run.record import RunFolder
from tests.methods.tiny import simulate

ROUNDS = 5


class Fails(lightning.Callback):
    """Ends the run in a round: by an error, or by a signal to itself."""

    def __init__(self, round_number: int, number: int | None = None) -> None:
        self.round, self.number = round_number, number

    def on_client_end(self, federation: fedpurin.Federation) -> None:
        if len(federation.history) == self.round:
            if self.number is None:
                raise RuntimeError("the power went")
            self.round = -1  # once
            os.kill(os.getpid(), self.number)


def without_seconds(value: dict[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if not name.endswith("seconds") and name != "rank"}


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [without_seconds(json.loads(line)) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def read_clients(run_dir: Path) -> list[dict[str, Any]]:
    with (run_dir / "clients.csv").open(newline="") as file:
        return [without_seconds(row) for row in csv.DictReader(file)]


def assert_same(one: fedpurin.RunResult, other: fedpurin.RunResult) -> None:
    for client_id, client in one.federation.clients.items():
        twin = other.federation.clients[client_id]
        assert torch.equal(client.vector, twin.vector)
        assert (client.mask is None) == (twin.mask is None)
        assert client.mask is None or torch.equal(client.mask, twin.mask)  # type: ignore[arg-type]
        assert all(torch.equal(value, twin.buffers[name]) for name, value in client.buffers.items())
        assert client.extra.keys() == twin.extra.keys()
        assert client.metrics == twin.metrics
    assert one.federation.exchange.ledger.cumulative() == other.federation.exchange.ledger.cumulative()
    assert [without_seconds(record) for record in one.history] == [without_seconds(record) for record in other.history]
    assert read_metrics(one.run_dir) == read_metrics(other.run_dir)
    assert read_clients(one.run_dir) == read_clients(other.run_dir)
    assert without_seconds(one.summary) == without_seconds(other.summary)
    masks = [run.run_dir / "masks.jsonl" for run in (one, other)]
    assert masks[0].exists() == masks[1].exists()


@pytest.mark.parametrize(
    "options",
    [
        ("method=fedpurin", "method.beta=4"),
        ("method=fedpurin_recommended", "method.beta=2", "method.close_after_horizon=true"),
        ("method=fedavg", "trainer.clients_per_round=2"),
        ("method=local",),
    ],
)
def test_a_run_in_two_parts_equals_one(tmp_path: Path, options: tuple[str, ...]) -> None:
    whole = simulate(tmp_path / "whole", *options, f"trainer.rounds={ROUNDS}")
    simulate(tmp_path / "parts", *options, "trainer.rounds=2", "checkpoint.every=1")
    parts = simulate(tmp_path / "parts", *options, f"trainer.rounds={ROUNDS}", "checkpoint.every=1", "resume=auto")
    assert_same(whole, parts)


def test_a_crash_loses_the_rounds_since_the_checkpoint_and_no_line_is_there_twice(tmp_path: Path) -> None:
    options = ("method=fedpurin", "method.beta=4", f"trainer.rounds={ROUNDS}", "checkpoint.every=2")
    whole = simulate(tmp_path / "whole", *options)
    with pytest.raises(RuntimeError, match="the power went"):
        simulate(tmp_path / "parts", *options, callbacks=[Fails(3)])
    summary = json.loads((tmp_path / "parts" / "summary.json").read_text())
    assert summary == {"status": "failed", "error": "RuntimeError: the power went", "rounds": 3}
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "accu')
    with (tmp_path / "parts" / "clients.csv").open("a") as file:
        file.write("3,0,0,1")
    parts = simulate(tmp_path / "parts", *options, "resume=auto")
    assert_same(whole, parts)
    starts = json.loads((tmp_path / "parts" / "environment.json").read_text())["starts"]
    assert [start["first_round"] for start in starts] == [0, 2]


def test_a_damaged_checkpoint_costs_only_the_rounds_since_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("method=fedpurin", "method.beta=4", "checkpoint.every=1")
    whole = simulate(tmp_path / "whole", *options, f"trainer.rounds={ROUNDS}")
    simulate(tmp_path / "parts", *options, "trainer.rounds=3")
    newest = find_all(tmp_path / "parts")[0].path / "tensors" / "__0_0.distcp"
    newest.write_bytes(newest.read_bytes()[:-100])
    parts = simulate(tmp_path / "parts", *options, f"trainer.rounds={ROUNDS}", "resume=auto")
    assert_same(whole, parts)
    assert "damaged checkpoint skipped" in caplog.text
    assert "round-00003: tensors/__0_0.distcp is cut short" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_ends_the_round_and_saves(tmp_path: Path, number: signal.Signals) -> None:
    options = ("method=fedpurin", "method.beta=4", f"trainer.rounds={ROUNDS}", "checkpoint.every=4")
    signal.signal(number, signal.SIG_DFL)  # tests under nohup ignore SIGHUP, and so would the run
    whole = simulate(tmp_path / "whole", *options)
    with pytest.raises(SystemExit) as stop:
        simulate(tmp_path / "parts", *options, callbacks=[Fails(1, number)])
    assert stop.value.code == 128 + number
    assert [checkpoint.rounds_done for checkpoint in find_all(tmp_path / "parts")] == [2]
    assert json.loads((tmp_path / "parts" / "summary.json").read_text())["status"] == "interrupted"
    assert_same(whole, simulate(tmp_path / "parts", *options, "resume=auto"))
    assert signal.getsignal(number) == signal.SIG_DFL


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)  # a shell's background job ignores it
    with pytest.raises(KeyboardInterrupt):
        simulate(
            tmp_path, "method=local", "trainer.rounds=4", "checkpoint.every=9", callbacks=[Fails(1, signal.SIGINT)]
        )
    assert [checkpoint.rounds_done for checkpoint in find_all(tmp_path)] == [2]
    said = f"stopped by SIGINT after 2 rounds; to continue after round 2: fedpurin resume {tmp_path}"
    assert said in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    twice = [Fails(1, signal.SIGINT), Fails(1, signal.SIGINT)]
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path, "method=local", "trainer.rounds=4", "checkpoint.every=9", callbacks=twice)
    assert find_all(tmp_path) == []
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "interrupted"


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("in the way")
    result = simulate(tmp_path / "run", "method=local", "checkpoint.every=1")
    assert result.summary["status"] == "finished"
    assert "not written" in caplog.text
    assert "the run goes on" in caplog.text


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(RunFolder, "append_round", full)
    with pytest.raises(OSError, match="No space left on device"):
        simulate(tmp_path, "method=local")
    assert "No space left on device" in json.loads((tmp_path / "summary.json").read_text())["error"]


CLI = [
    sys.executable, "-m", "fedpurin", "partition.num_clients=5", "trainer.local_epochs=1", "checkpoint.every=1",
    "partition.train_per_client=60", "trainer.threads=1", "trainer.accelerator=cpu", "method.beta=4",
]  # fmt: skip


def final_state(run_dir: Path) -> dict[str, torch.Tensor]:
    return find_all(run_dir)[0].read_tensors(lambda key: True)


def assert_same_folders(one: Path, other: Path) -> None:
    assert read_metrics(one) == read_metrics(other)
    assert read_clients(one) == read_clients(other)
    mine, twin = final_state(one), final_state(other)
    assert mine.keys() == twin.keys()
    assert all(torch.equal(value, twin[key]) for key, value in mine.items())
    states = [find_all(folder)[0].read_state() for folder in (one, other)]
    assert states[0]["ledger"]["entries"].keys() == states[1]["ledger"]["entries"].keys()
    assert all(
        states[0]["ledger"]["entries"][client_id] == states[1]["ledger"]["entries"][client_id]
        for client_id in map(str, range(5))
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_continues_on_another_number_of_processes(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run([*CLI, "trainer.rounds=6", f"hydra.run.dir={whole}"], check=True)
    subprocess.run([*CLI, "trainer.rounds=2", "trainer.devices=2", f"hydra.run.dir={parts}"], check=True)
    resume = [sys.executable, "-m", "fedpurin", "resume", str(parts)]
    subprocess.run([*resume, "trainer.rounds=4", "trainer.devices=1"], check=True)
    subprocess.run([*resume, "trainer.rounds=6", "trainer.devices=3"], check=True)
    assert_same_folders(whole, parts)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """The soak test: kill -9 at random, also while starting and while saving; then the run ends as if nothing was."""
    kills = int(os.environ.get("FEDPURIN_SOAK_KILLS", "20"))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run([*CLI, "trainer.rounds=40", f"hydra.run.dir={whole}"], check=True, stdout=subprocess.DEVNULL)
    command = [*CLI, "trainer.rounds=40", f"hydra.run.dir={parts}", "resume=auto"]
    dice = random.Random(3)
    for _ in range(kills):
        before = len(find_all(parts)) and find_all(parts)[0].rounds_done
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as run:
            # Wait for the run to get somewhere, or the kills would all fall into the start-up.
            while run.poll() is None and (not find_all(parts) or find_all(parts)[0].rounds_done == before):
                time.sleep(0.01)
            time.sleep(dice.uniform(0, 0.3))
            run.kill()
    subprocess.run(command, check=True)
    assert_same_folders(whole, parts)
