"""model=timm: networks by name, nothing downloaded, and heads that train alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fedpurin
from fedpurin import ConfigError
from lightning_modules import TimmClassifier

OPTIONS = [
    "model=timm", "model.name=test_resnet", "model.lr=0.03", "partition.num_clients=2", "trainer.rounds=1",
    "partition.train_per_client=40", "partition.test_per_client=20", "trainer.local_epochs=1", "callbacks.progress=null",
    "method=fedavg",
]  # fmt: skip


def test_without_the_package_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"model: model=timm needs the package timm: pip install 'fedpurin\[timm\]'"):
        fedpurin.simulate(OPTIONS, run_dir=tmp_path)


class TestWithTimm:
    @pytest.fixture(autouse=True)
    def needs_timm(self) -> None:
        pytest.importorskip("timm", reason="needs the optional package timm")

    def test_networks_fit_the_data(self) -> None:
        for name, size in (("test_resnet", 8), ("test_vit", 32)):
            module = TimmClassifier(name, 3, 1, size)
            assert module(torch.zeros(2, 1, size, size)).shape == (2, 3)

    def test_names_are_checked(self) -> None:
        with pytest.raises(
            ValueError, match=r"model.name=test_resnett: timm has no such network; near are test_resnet"
        ):
            TimmClassifier("test_resnett", 3)
        with pytest.raises(ValueError, match=r"model.trains=neck is not possible: all or head"):
            TimmClassifier("test_resnet", 3, trains="neck")  # type: ignore[arg-type]

    def test_weights_that_cannot_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import timm

        def offline(name: str, pretrained: bool, **options: object) -> None:
            raise OSError("We couldn't connect")

        monkeypatch.setattr(timm, "create_model", offline)
        with pytest.raises(
            ValueError, match=r"pretrained=true: the weights of test_resnet cannot be had .*couldn't connect"
        ):
            TimmClassifier("test_resnet", 3, pretrained=True)

    def test_a_head_alone(self, tmp_path: Path) -> None:
        result = fedpurin.simulate([*OPTIONS, "model.trains=head"], run_dir=tmp_path)
        layout = result.federation.trainer.space.layout
        assert [segment.name for segment in layout] == ["backbone.fc.weight", "backbone.fc.bias"]
        assert not result.federation.clients[0].buffers
        assert result.history[-1]["bytes/up"] < 2 * (4 * layout.size + 100)

    @pytest.mark.slow
    def test_two_processes_give_the_bits_of_one(self, tmp_path: Path) -> None:
        lines = []
        for folder, devices in (("one", 1), ("two", 2)):
            command = [*OPTIONS, f"hydra.run.dir={tmp_path / folder}", f"trainer.devices={devices}"]
            done = subprocess.run([sys.executable, "-m", "fedpurin", *command], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
            record = json.loads((tmp_path / folder / "metrics.jsonl").read_text())
            lines.append({name: value for name, value in record.items() if not name.endswith("seconds")})
        assert lines[0] == lines[1]
