"""Literal cases: numbers worked out by hand, what each method shares, and what it refuses."""

from __future__ import annotations

import dataclasses
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import fedpurin
from fedpurin.run.build import make_method
from fedpurin.run.compose import config_groups
from fedpurin.space import ParameterSpace, Roles
from tests.methods.tiny import Plain, Tiny, composed, simulate

METHODS = config_groups()["method"]


class Pull(LightningModule):
    """½(w − x)² with a learning rate of ½: a step halves the way from w, which starts at 0, to the client's x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return 0.5 * (self.w - batch[0]).square().mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("accuracy", self.w.detach())  # so that a run records where w was

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def pull(run_dir: Path, *overrides: str) -> tuple[list[float], dict[str, Any], fedpurin.Federation]:
    """Two clients, one with x = 1 and one with x = 3, one step an epoch; their w, ascending, and the last record."""
    y = torch.arange(2).repeat(20)
    data = TensorDataset(1.0 + 2.0 * y.float().unsqueeze(1), y)
    result = fedpurin.simulate(
        [
            "partition=pathological", "partition.classes_per_client=1", "partition.num_clients=2",
            "trainer.batch_size=100", "trainer.accelerator=cpu", "trainer.threads=1", "trainer.local_epochs=1",
            "callbacks.progress=null", "callbacks.mask_selection=null", "checkpoint.every=0", *overrides,
        ],
        module=Pull(), train=data, test=data, run_dir=run_dir,
    )  # fmt: skip
    values = sorted(float(client.vector[0]) for client in result.federation.clients.values())
    return values, result.history[-1], result.federation


def test_local(tmp_path: Path) -> None:
    """0 → ½ → ¾ and 0 → 1½ → 2¼."""
    values, record, _ = pull(tmp_path, "method=local", "trainer.rounds=2")
    assert values == pytest.approx([0.75, 2.25])
    assert record["bytes/up"] == record["bytes/down"] == 0


def test_fedavg(tmp_path: Path) -> None:
    """Both at the mean of ½ and 1½, then of 1 and 2."""
    values, record, _ = pull(tmp_path, "method=fedavg", "trainer.rounds=2")
    assert values == pytest.approx([1.5, 1.5])
    assert record["accuracy/personalized"] == pytest.approx(1.5), "mean of 1 and 2, before the exchange"
    assert record["accuracy/personalized/best"] == pytest.approx(2.0)


def test_fedavg_sends_every_participant_one_model_and_hears_one(tmp_path: Path) -> None:
    """Also in the first round, when the initial weights go down."""
    federation = pull(tmp_path, "method=fedavg", "trainer.rounds=3", "trainer.clients_per_round=1")[2]
    for record in federation.history:
        assert record["bytes/down"] == record["bytes/dense_down"] == record["bytes/up"] == record["bytes/dense_up"]


def test_fedprox(tmp_path: Path) -> None:
    """At ½x, after the first step, the pull to x and the pull back to 0 are equal with μ = 1: the second step is 0."""
    overrides = ["method=fedprox", "method.mu=1", "trainer.local_epochs=2", "trainer.rounds=1"]
    record = pull(tmp_path / "held", *overrides)[1]
    assert record["accuracy/personalized/worst"] == pytest.approx(0.5)
    assert record["accuracy/personalized/best"] == pytest.approx(1.5)
    record = pull(tmp_path / "free", *overrides, "method.mu=0")[1]
    assert record["accuracy/personalized/best"] == pytest.approx(2.25)


def test_ditto(tmp_path: Path) -> None:
    """Round 1: v is ½ and 1½, the global model 1. Round 2: v − ½((v − x) + (v − 1)) is 1 and 2, the global one 1½."""
    values, record, federation = pull(tmp_path, "method=ditto", "trainer.rounds=2")
    assert values == pytest.approx([1.0, 2.0])
    assert [float(client.extra["global"][0]) for client in federation.clients.values()] == pytest.approx([1.5, 1.5])
    assert record["accuracy/personalized"] == pytest.approx(1.5)
    assert record["accuracy/merged"] == record["accuracy/merged/best"] == pytest.approx(1.5)


def test_uniform_and_sample_weights_differ(tmp_path: Path) -> None:
    unequal = ["partition.volume.name=lognormal", "partition.volume.floor=10"]
    means = [
        simulate(tmp_path / w, "method=fedavg", f"method.weighting={w}", "trainer.rounds=1", *unequal).federation
        for w in ("samples", "uniform")
    ]
    assert not torch.equal(means[0].clients[0].vector, means[1].clients[0].vector)


@pytest.mark.parametrize(
    ("method", "private"),
    [
        ("fedavg", set()),
        ("fedprox", set()),
        ("ditto", set()),
        ("pfedsd", set()),
        ("fedper", {"net.3.weight", "net.3.bias"}),
        ("fedrep", {"net.3.weight", "net.3.bias"}),
        ("fedbn", {"net.1.weight", "net.1.bias"}),
        ("fedcac", set()),
        ("fedpurin", {"net.1.weight", "net.1.bias"}),
        ("fedrod", {"personal_head.weight", "personal_head.bias"}),
    ],
)
def test_what_stays_with_the_client(method: str, private: set[str]) -> None:
    space = space_of(method, Tiny())
    assert {s.name for s in space.layout.segments[len(space.shared) :]} == private


def space_of(name: str, module: LightningModule, roles: Roles | None = None) -> ParameterSpace:
    method, roles = make_method(composed(name).method), roles or Roles()
    space = ParameterSpace(method.adapt(module, roles), method.shares, roles)
    method.check(space, num_participants=4)
    return space


def test_a_named_head() -> None:
    space = space_of("fedper", Tiny(), Roles(head="net.0"))
    assert {s.name for s in space.shared} == {"net.1.weight", "net.1.bias", "net.3.weight", "net.3.bias"}
    space = space_of("fedrod", Tiny(), Roles(head="net.0"))
    assert [s.shape for s in space.layout if s.name.startswith("personal_head")] == [(5, 6), (5,)]


class Headless(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Unflatten(1, (6, 1)), nn.Conv1d(6, 3, 1), nn.Flatten())


class AllHead(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 3))


@pytest.mark.parametrize("method", ["fedper", "fedrep", "fedrod"])
def test_no_head(tmp_path: Path, method: str) -> None:
    with pytest.raises(fedpurin.ConfigError, match=r"no linear layer.*roles\.head"):
        simulate(tmp_path, f"method={method}", module=Headless())


@pytest.mark.parametrize("method", ["fedper", "fedrep"])
def test_nothing_but_a_head(tmp_path: Path, method: str) -> None:
    with pytest.raises(fedpurin.ConfigError, match="all head"):
        simulate(tmp_path, f"method={method}", module=AllHead())


def test_no_norm(tmp_path: Path) -> None:
    with pytest.raises(fedpurin.ConfigError, match=r"normalisation.*has none"):
        simulate(tmp_path, "method=fedbn", module=Plain())


def test_a_head_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(fedpurin.ConfigError, match=r"'net\.9' names no module"):
        simulate(tmp_path, "method=fedrod", "roles.head=net.9")


@pytest.mark.parametrize(("method", "name"), [("fedrod", "personal_head"), ("apfl", "personal")])
def test_a_name_that_is_taken(tmp_path: Path, method: str, name: str) -> None:
    module = Tiny()
    setattr(module, name, nn.Linear(2, 2))
    with pytest.raises(fedpurin.ConfigError, match=f"an attribute '{name}', and Tiny has one of its own"):
        simulate(tmp_path, f"method={method}", "roles.head=net.3", module=module)


class Unmeasured(Tiny):
    """Logs another value than accuracy."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("error", (self(batch[0]).argmax(1) != batch[1]).float().mean())


@pytest.mark.parametrize("method", ["lotteryfl", "sub_fedavg"])
def test_pruning_needs_an_accuracy(tmp_path: Path, method: str) -> None:
    judged = [f"method={method}", "trainer.monitor=error", "trainer.monitor_mode=min"]
    with pytest.raises(fedpurin.ConfigError, match=r"method\.accuracy=0\.5 on, and validation_step logs no 'accuracy'"):
        simulate(tmp_path / "a", *judged, module=Unmeasured())
    simulate(tmp_path / "b", *judged, "method.accuracy=0", module=Unmeasured())


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("fedprox", "mu", -1), ("ditto", "lam", float("inf")), ("ditto", "personal_epochs", 0),
        ("pfedsd", "temperature", 0), ("fedrod", "gamma", -1), ("fedrep", "head_epochs", 0), ("fedcac", "beta", 0),
        ("fedavg", "weighting", "other"), ("fedbn", "unknown", 1),
    ],
)  # fmt: skip
def test_options_out_of_range(method: str, option: str, value: Any) -> None:
    with pytest.raises(fedpurin.ConfigError, match=option):
        make_method({**composed(method).method, option: value})


@pytest.mark.parametrize("method", METHODS)
def test_every_option_is_in_the_yaml(method: str) -> None:
    """`fedpurin --cfg job` must show all of them, with the defaults of the class."""
    options = dict(composed(method).method)
    made = make_method(options)
    named = {field.name for field in fields(made)}
    assert named == options.keys() - {"_target_"}
    if method != "fedpurin_recommended":
        linked = (
            {"anneal_rounds": 100} if method in ("fedspa", "dispfl") else {}
        )  # follows another option, trainer.rounds
        assert dataclasses.replace(made, **linked) == type(made)(), "the YAML repeats the class's defaults"


def test_fedcac_scores() -> None:
    scores = composed("fedcac").scores
    assert (scores.order, scores.source, scores.cutoff) == ("first", "update", 1e-20)
