"""A client whose features are drawn to the class means of all clients: FedProto (arXiv 2105.00243, equation 3).

Owns: the term λ·mean((f(x) − c̄_y)²), and the sums from which a client's own class means follow, as buffers: what a
client has of them is its own, as running statistics are. In a fit that only probes they are sums of evaluation-mode
features. Does not own: the means of all clients (the method), when the sums start again.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from fedpurin.local.context import loss_context
from lightning_modules.mixing import add_to_loss


class Prototyping(LightningModule):
    """Mixed into a client's class by `fedpurin.methods.base.mix_in`; `watch_features` makes it work.

    Batches are (x, y) with class numbers y. Reads `values["prototypes"]` [classes, features], zero where there is none,
    `values["has_prototype"]` [classes], ones and zeros, and `values["prototype_weight"]` λ; without them it only sums.
    """

    prototype_sums: Tensor
    prototype_counts: Tensor
    prototype_squares: Tensor
    """Σ‖f‖² over all classes."""
    _watches = False
    _seen: Tensor | None = None

    def watch_features(self, path: str) -> None:
        """Features are what the linear layer at the dotted module path takes in."""
        head = self.get_submodule(path)
        if not isinstance(head, nn.Linear):
            raise TypeError(f"{path!r} is {type(head).__name__}, not a linear layer")
        self.register_buffer("prototype_sums", torch.zeros(head.out_features, head.in_features))
        self.register_buffer("prototype_counts", torch.zeros(head.out_features))
        self.register_buffer("prototype_squares", torch.zeros(1))
        head.register_forward_pre_hook(self._at_head)

    def _at_head(self, head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._watches:
            self._seen = inputs[0]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self._watches = True
        output = super().training_step(batch, batch_idx)
        self._watches = False
        if output is None:
            self._seen = None
            return None
        assert self._seen is not None, "the head has run"
        features, self._seen = self._seen, None
        classes = torch.arange(len(self.prototype_counts), device=features.device)
        members = (batch[1].unsqueeze(1) == classes).to(features.dtype)
        self.prototype_sums.add_(members.T @ features.detach())
        self.prototype_counts.add_(members.sum(0))
        self.prototype_squares.add_(features.detach().square().sum())
        values = loss_context().values
        if "prototypes" not in values:
            return output
        # A sample of a class that nobody has a mean of is its own target, and adds nothing.
        known = (members @ values["has_prototype"]).unsqueeze(1)
        distance = (known * (features - members @ values["prototypes"])).square().mean()
        return add_to_loss(output, values["prototype_weight"] * distance)
