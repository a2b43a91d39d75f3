"""Text like LEAF's and a regression, by the command line alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.backbones import lstm
from tests.command import run_command

PHRASES = {
    "ham": "to be or not to be that is ",
    "lear": "nothing will come of nothing ",
    "puck": "i go i go look how i go ",
}
"""What each speaker says, over and over: the next character follows from those before it."""
OPTIONS = [
    "partition.num_clients=3",
    "trainer.rounds=2",
    "trainer.local_epochs=2",
    "method=fedavg",
]


def write_text(path: Path, window: int = 6) -> None:
    """Sequences of 3 to `window` characters with the character that follows, by speaker."""
    tokens, lengths, following, speakers = [], [], [], []
    for speaker, phrase in PHRASES.items():
        text = phrase * 6
        for end in range(window, 90):
            length = 3 + end % (window - 2)
            tokens += [ord(c) - ord("a") + 1 if c != " " else 0 for c in text[end - length : end]]
            lengths.append(length)
            following.append(text[end])
            speakers.append(speaker)
    np.savez(path, x=tokens, lengths=lengths, y=following, client=speakers)


def run(folder: Path, *options: str) -> list[dict[str, Any]]:
    return run_command(folder, *OPTIONS, *options)


@pytest.mark.slow
def test_text_by_speaker(tmp_path: Path) -> None:
    write_text(tmp_path / "text.npz")
    text = ["data=arrays", f"data.root={tmp_path / 'text.npz'}", "partition=natural", "model=lstm", "trainer.rounds=4"]
    text += ["trainer.local_epochs=10"]
    one = run(tmp_path / "one", *text)
    assert one[-1]["accuracy/personalized"] > 0.8  # 17 characters
    assert one == run(tmp_path / "two", *text, "trainer.devices=2")
    run(tmp_path / "cut", *text, "trainer.rounds=2")
    assert one == run(tmp_path / "cut", *text, "resume=auto")


@pytest.mark.slow
def test_a_regression_on_a_table(tmp_path: Path) -> None:
    draws = np.random.default_rng(0).normal(size=(300, 3))
    lines = [f"{a},{b},{c},{2 * a - b}" for a, b, c in draws.round(6)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,price", *lines]))
    table = [
        "data=table", f"data.root={tmp_path / 't.csv'}", "data.label=price", "data.target=numbers", "partition=iid",
        "model=mlp_regression", "trainer.monitor=mse", "trainer.monitor_mode=min",
    ]  # fmt: skip
    one = run(tmp_path / "one", *table)
    assert one[-1]["test/mse/merged"] < 0.5  # the targets' variance is 5
    assert one == run(tmp_path / "two", *table, "trainer.devices=2")
    assert json.loads((tmp_path / "one" / "summary.json").read_text())["headline"] == "test/mse/personalized"


def test_padding_does_not_reach_the_head() -> None:
    torch.manual_seed(0)
    padded, bare = lstm(2, vocabulary=5, padding=4, hidden=6), lstm(2, vocabulary=5, hidden=6)
    bare.load_state_dict(padded.state_dict())
    tokens = torch.tensor([[1, 2, 4, 4], [3, 0, 1, 2]])
    assert torch.allclose(padded(tokens)[0], bare(tokens[:1, :2])[0], atol=1e-6)
    assert torch.allclose(padded(tokens)[1], bare(tokens[1:])[0], atol=1e-6)
    with pytest.raises(ValueError, match="lstm reads sequences of whole numbers"):
        lstm(2)
