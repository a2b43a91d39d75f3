"""The user's model: copied, completed, tried, or refused in one line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedpurin.config import ConfigError
from fedpurin.federation import Federation
from fedpurin.run.build import build
from fedpurin.run.module import check_fit
from tests.methods.tiny import TEST, TRAIN, Tiny, composed


def built(folder: Path, module: Any, method: str = "local") -> Federation:
    return build(composed(method), folder, module=module, train=TRAIN, test=TEST)


def refusal(folder: Path, module: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        built(folder, module)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Theirs(pytorch_lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any) -> None:
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.25)


class Late(Tiny):
    def setup(self, stage: str) -> None:
        self.stage = stage

    def configure_model(self) -> None:
        self.net = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 3))


def test_the_users_module_stays_as_it_was(tmp_path: Path) -> None:
    module = Tiny()
    before, attributes = copy.deepcopy(module.state_dict()), set(vars(module))
    runs = [built(tmp_path / f"{i}", used, "fedprox").run() for i, used in enumerate((module, module, Tiny()))]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert type(module) is Tiny
    assert set(vars(module)) == attributes, "no log, no hook"
    assert module.fabric is None
    copy.deepcopy(module)
    losses = [[record["loss/train"] for record in run] for run in runs]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("method", ["local", "ditto"])
def test_modules_of_pytorch_lightning_and_steps_without_an_index(tmp_path: Path, method: str) -> None:
    federation = built(tmp_path, Theirs(), method)
    history = federation.run()
    assert isinstance(federation.trainer.module, Theirs)
    assert history[-1]["accuracy/personalized"] > history[0]["accuracy/personalized"] > 1 / 3


def test_a_plain_network_is_wrapped_as_the_command_line_does(tmp_path: Path) -> None:
    module = built(tmp_path, nn.Linear(6, 3)).trainer.module
    assert type(module).__name__ == "ImageClassifier"
    assert [name for name, _ in module.named_parameters()] == ["backbone.weight", "backbone.bias"]


class Former(Tiny):
    """Written for Lightning 1."""

    def training_epoch_end(self, outputs: Any) -> None:
        pass

    def validation_step_end(self, outputs: Any) -> None:
        pass


class Asks(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * (1 + self.trainer.current_epoch)


def test_hooks_of_lightning_1_are_refused(tmp_path: Path) -> None:
    line = refusal(tmp_path, Former())
    assert line == (
        "model: Former has training_epoch_end, validation_step_end, which Lightning calls no more since version 2; "
        "write on_train_epoch_end or another hook of today"
    )


def test_a_module_that_asks_for_its_trainer_is_told_what_counts_instead(tmp_path: Path) -> None:
    line = refusal(tmp_path, Asks())
    assert line.startswith(
        "model: Asks does not fit samples of shape 6 (data, model): training_step raised RuntimeError"
    )
    assert line.endswith("(a client has no Trainer; self.current_epoch, self.global_step and self.round count)")


def test_layers_that_are_made_late(tmp_path: Path) -> None:
    federations = [built(tmp_path / name, Late()) for name in "ab"]
    module = federations[0].trainer.module
    assert module.stage == "fit"
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    assert shapes["net.0.weight"] == (4, 6)
    assert shapes["net.1.weight"] == (4,)
    assert torch.equal(module.net[1].running_mean, torch.zeros(4)), "the trial leaves the statistics alone"
    assert torch.equal(federations[0].trainer.vector, federations[1].trainer.vector), "drawn from the run's seed"


def test_lazy_layers_of_the_users_own_object(tmp_path: Path) -> None:
    class Lazy(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 3))

    module = Lazy()
    built_module = built(tmp_path, module).trainer.module
    assert built_module.net[1].running_mean.shape == (4,)
    assert type(module.net[1]).__name__ == "LazyBatchNorm1d"


class Embeds(Tiny):
    """An embedding with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(4, 3, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.rows((x[:, 0] > 0).long())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_sparse_gradients(tmp_path: Path) -> None:
    federation = built(tmp_path, Embeds())
    federation.run()
    rows = [dict(federation.trainer.space.views(c.vector))["rows.weight"] for c in federation.clients.values()]
    assert all(not torch.equal(own[:2], Embeds().rows.weight[:2]) for own in rows)
    assert all(torch.equal(own[2:], Embeds().rows.weight[2:]) for own in rows), "nobody looks them up"


def test_the_trial_leaves_nothing_behind(tmp_path: Path) -> None:
    class Counts(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.seen = [*getattr(self, "seen", []), len(batch[1])]
            return super().training_step(batch, batch_idx)

    module, pool = Counts(), built(tmp_path, Tiny()).trainer.train
    check_fit(module, pool, pool)
    assert not hasattr(module, "seen")


def test_what_is_refused(tmp_path: Path) -> None:
    class Dicts(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return batch["x"].sum()

    class Strange(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self(batch[0])

    class Validates(Tiny):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise KeyError("a\nb")

    class Steps(Tiny):
        def setup(self, stage: str) -> None:
            raise OSError("no such file")

    class Detached(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx).detach()

    class Closure(Tiny):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters())

    class NoSteps(nn.Module):
        pass

    cases = [
        (Dicts(), "Dicts does not fit samples of shape 6 (data, model): training_step raised TypeError: tuple indices"),
        (Strange(), "training_step of Strange returned a tensor [4, 3]"),
        (Validates(), "validation_step raised KeyError: 'a\\nb'"),
        (Steps(), "Steps.setup failed: OSError: no such file"),
        (Detached(), "the loss that training_step of Detached returned has no gradient"),
        (Closure(), "LBFGS of Closure evaluates the loss several times a step"),
        (Tiny().double(), "net.0.weight of Tiny is torch.float64; clients keep float32 parameters"),
        (nn.DataParallel(Tiny()), "a DataParallel wraps the network"),
        ("resnet18", "got str;"),
        (NoSteps(), "ImageClassifier has no trainable parameter"),
        (pytorch_lightning.LightningModule(), "LightningModule has no training_step"),
    ]
    for number, (module, said) in enumerate(cases):
        assert said in refusal(tmp_path / str(number), module), said


def test_one_data_set_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="given train and no test"):
        build(composed("local"), tmp_path, module=Tiny(), train=TRAIN)
