"""Which parameters a fit's loss depends on, where an optimizer would move the others all the same.

Alone, a parameter that the loss does not use has no gradient, and the optimizer passes it over. Under `torch.func` its
gradient is zero, and weight decay would shrink it. So a cohort leaves it out of its stack.

Owns: the question, asked once for every kind of fit. Does not own: fits (`cohort.py`), the optimizer (`stack.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from fedpurin.local.client import Client
from fedpurin.local.context import LossContext, set_loss_context
from fedpurin.local.fit import LocalFit
from fedpurin.local.stack import configured_optimizer
from fedpurin.local.trainer import LocalTrainer, loss_of
from fedpurin.space import Segment

DECAYS = ("weight_decay", "lambd")
"""Options by which an optimizer moves what has a gradient of zero."""


class UsedParameters:
    """Keeps, for every kind of fit, the names of the parameters that its loss has no gradient for."""

    def __init__(self, trainer: LocalTrainer, training: torch.nn.Module) -> None:
        self.trainer, self._training = trainer, training
        self._without: dict[Hashable, frozenset[str]] = {}

    def of(self, client: Client, fit: LocalFit, trained: Sequence[Segment], draw: Callable[[], Any]) -> list[Segment]:
        """Those of `trained` that the optimizer steps in a fit of this kind; `draw` gives a batch of the client's."""
        if not self._decays(fit):
            return list(trained)
        kind = (fit.purpose, fit.start, frozenset(fit.models), frozenset(fit.values), tuple(s.name for s in trained))
        counters = self.trainer.counters
        key = (kind, counters.round if counters.round_was_read else None)
        if key not in self._without:
            self._without[key] = self._look(client, fit, trained, draw())
        return [segment for segment in trained if segment.name not in self._without[key]]

    def _decays(self, fit: LocalFit) -> bool:
        optimizer = configured_optimizer(self.trainer.module) if fit.lr is None else None
        return optimizer is not None and any(group.get(name) for group in optimizer.param_groups for name in DECAYS)

    def _look(self, client: Client, fit: LocalFit, trained: Sequence[Segment], batch: Any) -> frozenset[str]:
        space, buffers = self.trainer.space, {name: buffer.clone() for name, buffer in client.buffers.items()}
        own = {name: view.detach().clone() for name, view in space.views(client.vector_named(fit.start)).items()}
        asked = [own[segment.name].requires_grad_() for segment in trained]
        models: dict[str, dict[str, Tensor]] = {name: space.views(v) | buffers for name, v in fit.models.items()}
        tensors = {f"module.{name}": tensor for name, tensor in {**own, **buffers}.items()}
        with torch.random.fork_rng(), set_loss_context(LossContext(models, fit.values)):
            loss = loss_of(functional_call(self._training, tensors, (batch,)))
            gradients = torch.autograd.grad(loss, asked, allow_unused=True)
        return frozenset(s.name for s, gradient in zip(trained, gradients, strict=True) if gradient is None)
