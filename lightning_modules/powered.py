"""A client whose weights are powers of what it trains: Powerpropagation (Schwarz et al., NeurIPS 2021, arXiv 2110.00296).

Owns: the loss at w = sign(v)·|v|^α, whose gradient grows with |v|: large weights learn faster, and zeros stay zero. Does not
own: α, and which parameters are powers (the method's).
"""

from __future__ import annotations

from typing import Any

from lightning import LightningModule

from fedpurin.local.context import loss_context
from lightning_modules.mixing import step_at


class Powered(LightningModule):
    """Mixed into a client's class by `fedpurin.methods.base.mix_in`; without a power it changes nothing.

    Reads `values["power/NAME"]` α for each parameter that is one. That parameter of the module's own is v then.
    """

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        step, values = super().training_step, loss_context().values
        powers = {name: (v, values.get(f"power/{name}")) for name, v in self.named_parameters()}
        weights = {name: v.sign() * v.abs().pow(power) for name, (v, power) in powers.items() if power is not None}
        return step_at(self, step, weights, batch, batch_idx) if weights else step(batch, batch_idx)
