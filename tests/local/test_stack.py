"""The optimizer of a cohort's stack: fused where the module leaves that open, with the bits of the plain one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fedpurin.local.stack import Stack, configured_optimizer
from fedpurin.space import ParameterSpace
from tests.methods.tiny import Plain


class WithSGD(Plain):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.03, **self.options)


def stepped(**options: Any) -> tuple[Tensor, list[bool | None]]:
    """Three models after four steps with the same gradients, the last two of them of two models only."""
    module = WithSGD(**options)
    space = ParameterSpace(module, lambda segment: True)
    draw = torch.Generator().manual_seed(5)
    stack = Stack(space, module, torch.randn(3, space.layout.length, generator=draw), space.layout.segments)
    chosen = []
    for active in (3, 3, 2, 2):
        stack.narrow(active)
        stack.gradients.copy_(torch.randn(stack.gradients.shape, generator=draw))
        stack.step()
        assert stack._optimizer is not None
        chosen.append(stack._optimizer.param_groups[0]["fused"])
    return stack.vectors, chosen


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 1e-3, "nesterov": True},
        {"momentum": 0.5, "dampening": 0.25, "maximize": True},
    ],
)
def test_fused_steps_have_the_same_bits(options: dict[str, Any]) -> None:
    fused, chosen = stepped(**options)
    plain, asked = stepped(**options, foreach=False)
    assert chosen == [True] * 4
    assert asked == [None] * 4, "the module's own choice stands"
    assert torch.equal(fused, plain)


class Configures(Plain):
    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what

    def configure_optimizers(self) -> Any:
        return self.what(torch.optim.SGD(self.parameters(), lr=0.1))


@pytest.mark.parametrize(
    ("what", "is_one"),
    [
        (lambda one: one, True),
        (lambda one: [one], True),
        (lambda one: {"optimizer": one}, True),
        (lambda one: [one, one], False),
        (lambda one: {"optimizer": one, "lr_scheduler": torch.optim.lr_scheduler.StepLR(one, 1)}, False),
        (lambda one: torch.optim.LBFGS(one.param_groups[0]["params"]), False),
        (lambda one: None, False),
    ],
)
def test_one_optimizer_without_a_schedule_steps_a_stack(what: Any, is_one: bool) -> None:
    found = configured_optimizer(Configures(what))
    assert type(found) is (torch.optim.SGD if is_one else type(None))
