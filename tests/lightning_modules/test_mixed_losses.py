"""The losses that methods mix into a client's class: literal values, and nothing outside their context."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedpurin.local.context import LossContext, set_loss_context
from fedpurin.methods.base import mix_in


class Linear(LightningModule):
    """Logits w·x of two classes; w is zero, so all logits are."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm1d(1, affine=False), nn.Dropout(dropout), nn.Linear(1, 2, bias=False))
        nn.init.zeros_(self.net[2].weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return {"loss": cross_entropy(self(batch[0]), batch[1]), "other": 1}


BATCH = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]), torch.tensor([0, 0, 0, 1])
LN2 = math.log(2)


def held_near(weight: float) -> AbstractContextManager[None]:
    reference = {"net.2.weight": torch.tensor([[1.0], [2.0]])}
    return set_loss_context(LossContext({"reference": reference}, {"proximal_weight": weight}))


def taught_by(teacher: dict[str, Tensor], *, temperature: float, weight: float) -> AbstractContextManager[None]:
    values = {"temperature": temperature, "distillation_weight": weight}
    return set_loss_context(LossContext({"teacher": teacher}, values))


def balanced_for(labels: Tensor, gamma: float) -> AbstractContextManager[None]:
    return set_loss_context(LossContext(values={"log_prior": gamma * torch.bincount(labels).float().log()}))


def loss_of(module: LightningModule) -> float:
    output = module.training_step(BATCH, 0)
    assert output["other"] == 1
    return float(output["loss"].detach())


def test_mixing_in_keeps_names_and_class() -> None:
    module = mix_in("lightning_modules.Proximal", Linear())
    assert isinstance(module, Linear)
    assert type(module).__name__ == "ProximalLinear"
    assert [name for name, _ in module.named_parameters()] == ["net.2.weight"]
    assert type(mix_in("lightning_modules.Proximal", module)) is type(module), "once is enough"


def test_proximal() -> None:
    """ln 2 + (0.1/2)·‖(0, 0) − (1, 2)‖² = ln 2 + 0.25."""
    module = mix_in("lightning_modules.Proximal", Linear())
    assert loss_of(module) == pytest.approx(LN2)
    with held_near(0.1):
        assert loss_of(module) == pytest.approx(LN2 + 0.25)
    assert loss_of(module) == pytest.approx(LN2)


def test_proximal_gradient() -> None:
    """0.1·((0, 0) − (1, 2))."""
    module = mix_in("lightning_modules.Proximal", Linear())
    gradients = []
    for weight in (0.0, 0.1):
        module.zero_grad()
        with held_near(weight):
            module.training_step(BATCH, 0)["loss"].backward()
        gradients.append(module.net[2].weight.grad.flatten().clone())
    assert (gradients[1] - gradients[0]).tolist() == pytest.approx([-0.1, -0.2])


def test_distilling() -> None:
    """Teacher at τ = 3 says (3/4, 1/4) of x = 1 and (1/4, 3/4) of x = −1, the student (1/2, 1/2):
    9·(3/4·ln(3/2) + 1/4·ln(1/2)) = 1.1773."""
    module = mix_in("lightning_modules.Distilling", Linear(dropout=0.5))
    teacher = {"net.2.weight": torch.tensor([[3 * math.log(3)], [0.0]]), **buffers(module)}
    module.train()
    assert loss_of(module) == pytest.approx(LN2)
    with taught_by(teacher, temperature=3.0, weight=1.0):
        assert loss_of(module) == pytest.approx(LN2 + 1.177308, abs=1e-5)
    with taught_by(teacher, temperature=3.0, weight=0.5):
        assert loss_of(module) == pytest.approx(LN2 + 0.588654, abs=1e-5)
    assert all(child.training for child in module.modules())
    assert loss_of(module) == pytest.approx(LN2)


def buffers(module: nn.Module) -> dict[str, Tensor]:
    """Running statistics under which evaluation leaves x as it is."""
    return {
        name: torch.full_like(buffer, 1 - 1e-5) if name.endswith("var") else torch.zeros_like(buffer)
        for name, buffer in module.named_buffers()
    }


def test_the_teacher_leaves_the_students_statistics_alone() -> None:
    plain, taught = Linear().train(), mix_in("lightning_modules.Distilling", Linear().train())
    teacher = {name: value.clone() for name, value in taught.state_dict().items()}
    before = {name: value.clone() for name, value in teacher.items()}
    plain.training_step(BATCH, 0)
    with taught_by(teacher, temperature=1.0, weight=1.0):
        taught.training_step(BATCH, 0)
    for name, value in plain.state_dict().items():
        assert torch.equal(taught.state_dict()[name], value)
        assert torch.equal(teacher[name], before[name])


def test_distilling_needs_logits_of_forward() -> None:
    class Direct(Linear):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
            return cross_entropy(self.net(batch[0]), batch[1])

    module = mix_in("lightning_modules.Distilling", Direct())
    with (
        taught_by(dict(module.state_dict()), temperature=1.0, weight=1.0),
        pytest.raises(TypeError, match=r"must call self\(x\)"),
    ):
        module.training_step(BATCH, 0)


def two_headed() -> Any:
    module = mix_in("lightning_modules.TwoHeaded", Linear())
    module.add_personal_head("net.2")
    return module.train()


def test_two_heads() -> None:
    """All logits are 0. Class counts (3, 1): generic −(3·ln(3/4) + ln(1/4))/4, personal ln 2."""
    module = two_headed()
    assert loss_of(module) == pytest.approx(2 * LN2)
    balanced = -(3 * math.log(3 / 4) + math.log(1 / 4)) / 4
    with balanced_for(BATCH[1], 1.0):
        assert loss_of(module) == pytest.approx(balanced + LN2)
    with balanced_for(BATCH[1], 0.0):
        assert loss_of(module) == pytest.approx(2 * LN2)


def test_a_class_that_is_not_there_has_no_logit() -> None:
    module = two_headed()
    batch = BATCH[0], torch.zeros(4, dtype=torch.long)
    with balanced_for(batch[1], 1.0):
        loss = module.training_step(batch, 0)["loss"]
    assert float(loss.detach()) == pytest.approx(LN2), "the generic head cannot be wrong: −ln 1 = 0"
    loss.backward()
    assert bool(torch.isfinite(module.net[2].weight.grad).all())


def test_each_loss_trains_its_own_head_and_the_sum_predicts() -> None:
    module = two_headed()
    nn.init.constant_(module.personal_head.weight, 2.0)
    module.training_step(BATCH, 0)["loss"].backward()
    generic = module.net[2].weight.grad.clone()
    plain = Linear().train()
    plain.training_step(BATCH, 0)["loss"].backward()
    assert torch.equal(generic, plain.net[2].weight.grad), "the personal loss must not reach the generic head"
    module.load_state_dict(buffers(module), strict=False)
    module.eval()
    x = torch.tensor([[3.0]])
    torch.testing.assert_close(module(x), torch.full((1, 2), 6.0), rtol=1e-4, atol=0)


def test_powers_of_the_named_weights_alone() -> None:
    """v = (ln 2, −ln 2)/2 of a power of 1 has logits ±(ln 2)/2 for x = ±1; α = 2 makes them ±(ln 2)²/4."""
    module = mix_in("lightning_modules.Powered", Linear())
    module.load_state_dict({**buffers(module), "net.2.weight": torch.tensor([[LN2 / 2], [-LN2 / 2]])})
    module.eval()

    def expected(logit: float) -> float:
        right, wrong = math.log(1 + math.exp(-2 * logit)), math.log(1 + math.exp(2 * logit))
        return (right + 3 * wrong) / 4  # one of the four samples is on the right side

    assert loss_of(module) == pytest.approx(expected(LN2 / 2), abs=1e-5)
    with set_loss_context(LossContext(values={"power/net.1.weight": 2.0})):
        assert loss_of(module) == pytest.approx(expected(LN2 / 2), abs=1e-5), "a norm or a frozen part of any shape"
    with set_loss_context(LossContext(values={"power/net.2.weight": 2.0})):
        assert loss_of(module) == pytest.approx(expected(LN2**2 / 4), abs=1e-5)
