"""`fedpurin new method|model|callback NAME`: the code, the YAML and the test of a new part, ready to run.

In a checkout they go where its own parts lie. Elsewhere, where fedpurin was installed from a wheel, they go into the working
folder, their YAML in conf/GROUP, which `fedpurin --config-dir conf` finds. Owns the three starting
points. Does not own what a method may say (`methods/base.py`, docs/add-a-method.md). Files that exist are never
written over.
"""

from __future__ import annotations

import argparse
import keyword
import re
import shlex
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

from fedpurin.hooks import RunCallback


class {title}(RunCallback):
    """Keeps the best accuracy of the run in `best`."""

    def __init__(self) -> None:
        self.best = 0.0

    def on_round_end(self, record: Mapping[str, Any]) -> None:  # type: ignore[override]  # a hook names what it needs
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
OWN_METHOD_TEST = '''\
"""{title}: the head stays with its client, so that less is sent than a whole model."""

from __future__ import annotations

from pathlib import Path

import fedpurin


def test_less_than_the_whole_model_is_sent(tmp_path: Path) -> None:
    options = ["method=fedavg", "method._target_={name}.{title}", "partition.num_clients=2", "trainer.rounds=1"]
    summary = fedpurin.simulate(options, run_dir=tmp_path / "run").summary
    assert summary["num_shared"] < summary["num_parameters"]
    assert summary["total/bytes/up"] < 2 * 4 * summary["num_parameters"]  # two clients, float32
'''
"""Outside a checkout there is no tests/methods/tiny.py."""
PARTS = {"method": METHOD, "model": MODEL, "callback": CALLBACK}
OPTION = {"method": "method", "model": "model", "callback": "experiment"}


HOME = {"method": "fedpurin.methods", "model": "lightning_modules.backbones", "callback": "callbacks"}


def is_checkout(root: Path) -> bool:
    return (root / "pyproject.toml").is_file() and (root / "fedpurin" / "methods").is_dir()


def texts_of(kind: str, name: str, root: Path) -> dict[Path, str]:
    """The three files by where they go, in a checkout or in a folder of the user's."""
    title = "".join(word.capitalize() for word in name.split("_"))
    texts = {path.format(name=name): text.format(name=name, title=title) for path, text in PARTS[kind].items()}
    if is_checkout(root):
        return {root / path: text for path, text in texts.items()}
    code, choice, test = texts.values()
    if kind == "method":
        test = OWN_METHOD_TEST.format(name=name, title=title)
    module = f"{HOME[kind]}.{name}"
    return {
        root / f"{name}.py": code,
        root / "conf" / OPTION[kind] / f"{name}.yaml": choice.replace(module, name),
        root / f"test_{name}.py": test.replace(module, name),
    }


def write_part(kind: str, name: str, root: Path) -> list[Path]:
    """Write the three files of one part under `root`, and return their paths.

    Raises:
        ConfigError: the name is no Python name, or one of the files exists; nothing is written then.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"new {kind} {name}: NAME needs to be a Python name in lower case, say my_{kind}")
    texts = texts_of(kind, name, root)
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
        description="Write the code, the YAML and the test of a new method, model or callback, ready to run: into the "
        "checkout that runs, or, where fedpurin was installed, into the working folder.",
    )
    parser.add_argument("kind", choices=PARTS, help="what to write")
    parser.add_argument("name", metavar="NAME", help="lower case, say my_method")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="another checkout, or another folder of yours")
    given = parser.parse_args(arguments)
    running = Path(fedpurin.__file__).resolve().parent.parent
    root = given.into or (running if is_checkout(running) else Path())
    for path in write_part(given.kind, given.name, root):
        print(path)
    found = "" if is_checkout(root) else f"--config-dir {shlex.quote(str(root / 'conf'))} "
    print(f"run it: fedpurin {found}{OPTION[given.kind]}={given.name} trainer.rounds=2")
    return 0
