"""A client whose weights are powers of what it trains: Powerpropagation (Schwarz et al., NeurIPS 2021, arXiv 2110.00296).

Owns: the loss at w = sign(v)·|v|^α, whose gradient grows with |v|: large weights learn faster, and zeros stay zero. Does not
own: α, and which parameters are weights by their shape alone (two dimensions and more).
"""

from __future__ import annotations

from typing import Any

from lightning import LightningModule

from fedpurin.local.context import loss_context
from lightning_modules.mixing import step_at


class Powered(LightningModule):
    """Mixed into a client's class by `fedpurin.methods.base.mix_in`; without a power it changes nothing.

    Reads `values["power"]` α. The module's own parameters are v then.
    """

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        step, power = super().training_step, loss_context().values.get("power")
        if power is None:
            return step(batch, batch_idx)
        weights = {n: v.sign() * v.abs().pow(power) if v.dim() > 1 else v for n, v in self.named_parameters()}
        return step_at(self, step, weights, batch, batch_idx)
