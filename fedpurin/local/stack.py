"""A cohort's state as stacked tensors, and the optimizer that steps all of it at once.

Owns: flat vectors and buffers of K clients as the rows of one tensor each; an optimizer of the class and options that
the module configures, over those rows. An element-wise optimizer cannot tell K stacked models from one large one, so
each client gets the steps that it would get alone. Does not own: batches and losses (`cohort.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float32
from lightning import LightningModule
from torch import Tensor

from fedpurin.local.reach import Reach
from fedpurin.space import ParameterSpace, Segment

ELEMENTWISE = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax,
    torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.ASGD, torch.optim.Rprop,
)  # fmt: skip
"""Optimizers whose step of an element looks at no other element."""


def configured_optimizer(module: LightningModule) -> torch.optim.Optimizer | None:
    """What `configure_optimizers` returns, where it is one element-wise optimizer without a schedule."""
    configured: Any = module.configure_optimizers()
    if isinstance(configured, dict) and set(configured) == {"optimizer"}:
        configured = configured["optimizer"]
    if isinstance(configured, list) and len(configured) == 1:
        configured = configured[0]
    return configured if type(configured) in ELEMENTWISE else None


class Stack:
    """K models in training: `vectors` [K, length] with their gradients, and the rows that still train.

    Rows are in descending order of steps, so those that still train are always the first `active`.
    """

    def __init__(
        self,
        space: ParameterSpace,
        module: LightningModule,
        vectors: Float32[Tensor, "clients length"],
        trained: Sequence[Segment],
        lr: float | None = None,
    ) -> None:
        """With `lr` the optimizer is plain SGD."""
        self.vectors, self.gradients = vectors, torch.zeros_like(vectors)
        self.trained = trained
        optimizer = configured_optimizer(module) if lr is None else torch.optim.SGD(module.parameters(), lr=lr)
        assert optimizer is not None, "choice.py asks for no cohort without one"
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        segments = {segment.name: segment for segment in trained}
        groups = [
            (options, [segments[n] for p in options["params"] if (n := names.get(id(p))) in segments])
            for options in optimizer.param_groups
        ]
        self._groups = [(options, members) for options, members in groups if members]
        self._kind: Any = type(optimizer)
        # One group over everything is one tensor, padding included: zeros with zero gradients stay zeros.
        self._is_whole = len(self._groups) == 1 and len(self._groups[0][1]) == len(space.layout)
        is_fusable = self._is_whole and self._kind is torch.optim.SGD and vectors.device.type == "cpu"
        self._choices = {"fused": True} if is_fusable and not _is_chosen(self._groups[0][0]) else {}
        self._optimizer: torch.optim.Optimizer | None = None
        self.active = 0
        self.narrow(len(vectors))

    def narrow(self, active: int) -> None:
        """Go on with the first `active` rows; what the optimizer knows of them stays."""
        if active == self.active:
            return
        earlier, self.active = self._optimizer, active
        groups = []
        for options, members in self._groups:
            slices = [slice(None)] if self._is_whole else [segment.slice for segment in members]
            parameters = []
            for part in slices:
                parameter = self.vectors[:active, part].detach()
                parameter.grad = self.gradients[:active, part]
                parameters.append(parameter)
            groups.append({**options, **self._choices, "params": parameters})
        self._optimizer = self._kind(groups)  # the groups hold every option
        if earlier is not None:
            before = [parameter for group in earlier.param_groups for parameter in group["params"]]
            after = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
            for old, new in zip(before, after, strict=True):
                self._optimizer.state[new] = {
                    name: value[:active] if isinstance(value, Tensor) and value.shape == old.shape else value
                    for name, value in earlier.state[old].items()
                }

    def reach(self, num_steps: int) -> float:
        """The reach of a client that took this many steps."""
        reach = Reach()
        for _ in range(num_steps):
            reach.step([options for options, _ in self._groups])
        return reach.total

    def step(self) -> None:
        """One optimizer step of every active row, from `gradients`."""
        assert self._optimizer is not None
        self._optimizer.step()


def _is_chosen(options: Mapping[str, Any]) -> bool:
    """Whether the module says how its SGD steps. Else it may be fused: one pass over the memory, and the same bits."""
    return options["fused"] is not None or options["foreach"] is not None or bool(options["differentiable"])
