"""`fedpurin new method|model|callback NAME`: the code, the YAML and the test of a new part, ready to run.

Owns the three starting points. Does not own what a method may say (`methods/base.py`, docs/add-a-method.md). Files that
exist are never written over.
"""

from __future__ import annotations

import argparse
import keyword
import re
from collections.abc import Sequence
from pathlib import Path

import fedpurin
from fedpurin.config import ConfigError

METHOD = {
    "fedpurin/methods/{name}.py": '''\
"""{title}: say here what it shares, sends and keeps, with the paper and its equation.

w ← Σ_i (s_i / Σ_k s_k) w_i                                      over the round's participants
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS
from fedpurin.methods.fedavg import FedAvg
from fedpurin.space import Segment


@dataclass(kw_only=True, config=OPTIONS)
class {title}(FedAvg):
    """Averages what it shares. The options are fields; `methods/base.py` has every hook and its default."""

    def shares(self, segment: Segment) -> bool:
        return not segment.is_head

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        return (LocalFit(),)
''',
    "configs/method/{name}.yaml": """\
# {title}: one line that says what it does.
_target_: fedpurin.methods.{name}.{title}
weighting: samples
""",
    "tests/methods/test_{name}.py": '''\
"""{title}: the shared part is everybody's after a round, the rest is each client's own."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.methods.tiny import simulate


def test_shared_parameters_are_equal_after_a_round_and_others_are_not(tmp_path: Path) -> None:
    federation = simulate(tmp_path, "method={name}").federation
    length = federation.trainer.space.shared.length
    first, second = (federation.clients[i].vector for i in (0, 1))
    assert torch.equal(first[:length], second[:length])
    assert not torch.equal(first[length:], second[length:])
''',
}
MODEL = {
    "lightning_modules/backbones/{name}.py": '''\
"""{title}: say here which network this is."""

from __future__ import annotations

from torch import nn


def {name}(num_classes: int, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """One hidden layer on flat images."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(in_channels * image_size**2, 64), nn.ReLU(), nn.Linear(64, num_classes)
    )
''',
    "configs/model/{name}.yaml": """\
# num_classes, in_channels and image_size come from the data.
_target_: lightning_modules.ImageClassifier
backbone:
  _target_: lightning_modules.backbones.{name}.{name}
lr: 0.03
momentum: 0.9
weight_decay: 0.0
""",
    "tests/lightning_modules/test_{name}.py": '''\
"""{title}: output shape and number of parameters."""

from __future__ import annotations

import torch

from lightning_modules.backbones.{name} import {name}


def test_{name}() -> None:
    network = {name}(10, in_channels=1, image_size=8)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 64 * 64 + 64 + 64 * 10 + 10
''',
}
CALLBACK = {
    "callbacks/{name}.py": '''\
"""{title}: say here what it watches. It reads a round's record and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning


class {title}(lightning.Callback):
    """Keeps the best accuracy of the run in `best`."""

    def __init__(self) -> None:
        self.best = 0.0

    def on_round_end(self, record: Mapping[str, Any]) -> None:
        """Called on rank 0 with what becomes a line of metrics.jsonl."""
        self.best = max(self.best, record.get("accuracy/personalized") or 0.0)
''',
    "configs/experiment/{name}.yaml": """\
# @package _global_
# The run's own callbacks, and {title}.
callbacks:
  {name}:
    _target_: callbacks.{name}.{title}
""",
    "tests/callbacks/test_{name}.py": '''\
"""{title} keeps the highest accuracy, and rounds without one do not count."""

from __future__ import annotations

from callbacks.{name} import {title}


def test_the_best_round_stays() -> None:
    callback = {title}()
    for accuracy in (0.5, 0.75, None, 0.625):
        callback.on_round_end({{"accuracy/personalized": accuracy}})
    assert callback.best == 0.75
''',
}
PARTS = {"method": METHOD, "model": MODEL, "callback": CALLBACK}
OPTION = {"method": "method", "model": "model", "callback": "experiment"}


def write_part(kind: str, name: str, root: Path) -> list[Path]:
    """Write the three files of one part under `root`, and return their paths.

    Raises:
        ConfigError: the name is no Python name, or one of the files exists; nothing is written then.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"new {kind} {name}: NAME needs to be a Python name in lower case, say my_{kind}")
    title = "".join(word.capitalize() for word in name.split("_"))
    texts = {root / path.format(name=name): text.format(name=name, title=title) for path, text in PARTS[kind].items()}
    taken = [str(path) for path in texts if path.exists()]
    if taken:
        raise ConfigError(f"new {kind} {name}: {', '.join(taken)} exists; choose another NAME")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def main(arguments: Sequence[str]) -> int:
    """`fedpurin new KIND NAME`."""
    parser = argparse.ArgumentParser(
        prog="fedpurin new",
        description="Write the code, the YAML and the test of a new method, model or callback, ready to run.",
    )
    parser.add_argument("kind", choices=PARTS, help="what to write")
    parser.add_argument("name", metavar="NAME", help="lower case, say my_method")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="the checkout; the default is the one that runs")
    options = parser.parse_args(arguments)
    root = options.into or Path(fedpurin.__file__).resolve().parent.parent
    for path in write_part(options.kind, options.name, root):
        print(path)
    print(f"run it: fedpurin {OPTION[options.kind]}={options.name} trainer.rounds=2")
    return 0
