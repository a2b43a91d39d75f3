"""A client that learns how much of each parameter to take over: FedALA's local aggregation (arXiv 2212.01197, equation 4).

Owns: the loss as a function of the weights W, at Θ + (θ − Θ) ⊙ W. Does not own: how W is learned and bounded, which are
the options of the fit (the method's).
"""

from __future__ import annotations

from typing import Any

from lightning import LightningModule

from fedpurin.local.context import loss_context
from lightning_modules.mixing import step_at


class Aggregating(LightningModule):
    """Mixed into a client's class by `fedpurin.methods.base.mix_in`; without the two models it changes nothing.

    Reads `models["local"]` Θ and `models["global"]` θ. The module's own parameters are W then.
    """

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        step, models = super().training_step, loss_context().models
        if "global" not in models:
            return step(batch, batch_idx)
        local, received = models["local"], models["global"]
        learned = [(name, w) for name, w in self.named_parameters() if name in received]  # the others are frozen
        mixed = {name: local[name] + (received[name] - local[name]) * w for name, w in learned}
        return step_at(self, step, mixed, batch, batch_idx)
