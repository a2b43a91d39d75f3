"""The tables at a run's end: means beside means, totals beside totals, one reference for all methods."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from callbacks.progress import format_bytes, summary_tables
from tests.methods.tiny import simulate

SUMMARY = {
    "rounds": 3, "num_parameters": 2000, "num_shared": 1000,
    "accuracy/personalized": 0.75, "accuracy/personalized/worst": 0.5, "accuracy/personalized/best": 1.0,
    "accuracy/merged": 0.25, "accuracy/merged/worst": 0.125, "accuracy/merged/best": 0.375,
    "total/bytes/up": 4_100, "total/bytes/dense_up": 4_000, "total/bytes/down": 400, "total/bytes/dense_down": 4_000,
}  # fmt: skip


def shown(**further: float) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(summary_tables(SUMMARY | further))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    return [" ".join(line.replace("│", " ").replace("┃", " ").split()) for line in text.splitlines()]


def test_accuracies_and_totals_have_a_table_each() -> None:
    lines = shown()
    assert "accuracy mean over clients worst client best client" in lines
    assert "personalized 0.7500 0.5000 1.0000" in lines
    assert not any(line.startswith("sparse") for line in lines)
    assert "merged: the model that a client starts the next round from, before it trains" in lines
    assert "bytes sent whole model dense against it shared part dense" in lines


@pytest.mark.parametrize("width", [80, 61, 60, 59, 50, 40, 30])
def test_no_width_of_a_terminal_cuts_a_value_or_a_rule(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(summary_tables(SUMMARY | {"total/bytes/up": 932_000, "total/bytes/dense_up": 5_170_000}))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    for value in ("0.7500", "0.1250", "932 kB", "91.0 % less", "5.17 MB"):
        assert value in " ".join(text.split())
    assert all(line.rstrip()[-1] in "┓┃┩│┘" for line in lines if line and line[0] in "┏┃┡│└")


def test_the_reduction_is_against_the_whole_model_and_has_no_minus() -> None:
    lines = shown()
    assert "up 4.1 kB 8 kB 48.8 % less 4 kB" in lines
    assert "down 400 B 8 kB 95.0 % less 4 kB" in lines
    assert "together 4.5 kB 16 kB 71.9 % less 8 kB" in lines
    assert "up 8.2 kB 8 kB 2.5 % more 4 kB" in shown(**{"total/bytes/up": 8_200})
    assert "up 8 kB 8 kB the same 4 kB" in shown(**{"total/bytes/up": 8_000})
    assert "up 0 B 0 B – 0 B" in shown(**{"num_shared": 0, "total/bytes/up": 0, "total/bytes/dense_up": 0})


def test_a_resumed_run_says_how_many_rounds_are_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("method=local", "checkpoint.every=1", "callbacks={progress: {_target_: callbacks.progress.Progress}}")
    simulate(tmp_path, *options, "trainer.rounds=1")
    assert ", 1 rounds; head:" in capsys.readouterr().out
    simulate(tmp_path, *options, "trainer.rounds=3", "resume=auto")
    assert ", 3 rounds, of which 1 are done; head:" in capsys.readouterr().out


def test_network_and_solver_are_lines_below() -> None:
    lines = shown(**{
        "total/network/seconds": 12.34, "network/seconds_to_target": 5.0,
        "worst/program/gap": 1e-5, "mask/density": 0.5, "total/program/seconds": 2.0,
    })  # fmt: skip
    assert "simulated network: 12.3 s, target accuracy after 5.0 s" in lines
    assert "masks: density 0.500 in the last round; programs solved in 2.0 s, worst gap 1.0e-05" in " ".join(lines)


def test_bytes_between_clients_are_said_to_be() -> None:
    assert not any("from client to client" in line for line in shown())
    assert "from client to client: a message counts up with its sender" in " ".join(shown(**{"bytes/up/peers": 10}))


def test_bytes_have_three_digits() -> None:
    assert [format_bytes(count) for count in (999, 1234, 5_678_900)] == ["999 B", "1.23 kB", "5.68 MB"]
