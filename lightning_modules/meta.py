"""Clients whose step looks at adapted models: Per-FedAvg (arXiv 2002.07948) and pFedMe (arXiv 2006.08848).

Owns: the first-order gradient at w − α∇f(w), and the K steps towards the proximal point θ(w). Does not own: the outer
step, which is the client's own optimizer's, nor rates and weights (the method's options).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.utils import _pytree as pytree

from fedpurin.local.context import loss_context
from lightning_modules.mixing import gradient_at, step_at

Named = dict[str, Tensor]


class Adapting(LightningModule):
    """Per-FedAvg, first order: the gradient, on the second half of a batch, at one step α from w on its first half.

    Reads `values["adaptation_rate"]` α; without it nothing changes. A batch of fewer than four samples serves twice.
    """

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        step, values = super().training_step, loss_context().values
        if "adaptation_rate" not in values:
            return step(batch, batch_idx)
        first, second = halves(batch)
        weights = trained(self)
        gradient = gradient_at(self, step, weights, first, batch_idx)
        if gradient is None:
            return None
        adapted = {name: weight - values["adaptation_rate"] * gradient[name] for name, weight in weights.items()}
        return step_at(self, step, adapted, second, batch_idx)


class Enveloping(LightningModule):
    """pFedMe: K steps from w towards θ(w) = argmin f(θ) + (λ/2)‖θ − w‖², then the gradient λ(w − θ) for w.

    Reads `values`: "envelope_weight" λ, "envelope_rate" and "envelope_steps" K; without them nothing changes. The loss that
    is reported is the envelope's, f(θ) + (λ/2)‖w − θ‖².
    """

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        step, values = super().training_step, loss_context().values
        if "envelope_weight" not in values:
            return step(batch, batch_idx)
        weight, rate, num_steps = (values[f"envelope_{name}"] for name in ("weight", "rate", "steps"))
        own = trained(self)
        theta = {name: tensor.detach() for name, tensor in own.items()}
        for _ in range(int(num_steps)):
            gradient = gradient_at(self, step, theta, batch, batch_idx)
            if gradient is None:
                return None
            theta = {n: t - rate * (gradient[n] + weight * (t - own[n].detach())) for n, t in theta.items()}
        with torch.no_grad():
            output = step_at(self, step, theta, batch, batch_idx)  # moves the running statistics
        if output is None:
            return None
        value = output["loss"] if isinstance(output, Mapping) else output
        distance = torch.stack([(tensor - theta[name]).square().sum() for name, tensor in own.items()]).sum()
        return value + weight / 2 * distance


def trained(module: LightningModule) -> Named:
    """The parameters that a fit moves; the others are constants, in inner steps too."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def halves(batch: Any) -> tuple[Any, Any]:
    """The first and the second half of a batch; both are all of it where it is too small for batch statistics."""
    length = len(pytree.tree_leaves(batch)[0])
    if length < 4:
        return batch, batch
    middle = length // 2
    return pytree.tree_map(lambda t: t[:middle], batch), pytree.tree_map(lambda t: t[middle:], batch)
