"""What a finished run hands back: a short line, tables, and each client's model."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from fedpurin.config import ConfigError
from tests.methods.tiny import CLIENTS, TEST, Tiny, simulate


def test_run_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = simulate(tmp_path, "method=local", "partition=iid", module=Tiny())
    accuracy = result.history[-1]["accuracy/personalized"]
    assert repr(result) == f"RunResult({str(tmp_path)!r}, 2 rounds, accuracy/personalized={accuracy:.4g})"

    model, client = result.model(2), result.federation.clients[2]
    assert isinstance(model, Tiny)
    assert not model.training
    x, y = (tensor[client.test_indices] for tensor in TEST.tensors)
    hits = (model(x).argmax(1) == y).float().mean()
    assert float(hits) == pytest.approx(client.metrics["accuracy/merged"])
    before = client.vector.clone()
    with torch.no_grad():
        model.net[0].weight.zero_()
    assert torch.equal(client.vector, before), "a copy"
    assert model.log is not result.federation.trainer.module.log
    with pytest.raises(ConfigError, match=f"clients are 0 to {CLIENTS - 1}"):
        result.model(CLIENTS)

    class Frame:
        def __init__(self, rows: Any) -> None:
            self.rows = rows

    pandas = types.SimpleNamespace(DataFrame=Frame, read_csv=lambda path: Path(path).read_text())
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert [row["round"] for row in result.rounds.rows] == [0, 1]
    assert len(result.clients.splitlines()) == 1 + 2 * CLIENTS
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"RunResult\.rounds needs the package pandas"):
        _ = result.rounds
