"""SCAFFOLD (Karimireddy et al., ICML 2020, arXiv 1910.06378, Algorithm 1, option II): steps corrected by control variates.

Shares every trainable parameter; sends model and control variate up, and both come down. With x the model received:
    y_i ← y_i − η (g_i(y_i) − c_i + c)                        K steps from x
    c_i⁺ = c_i − c + (x − y_i) / (Kη)                         kept by the client
    x ← (1/|S|) Σ_i y_i                                       the paper's global step of 1
    c ← c + (|S|/N) (1/|S|) Σ_i (c_i⁺ − c_i)                  over the round's participants S, of N clients
For SGD with momentum, Kη is replaced by the fit's reach (`fedpurin/local/reach.py`), which makes (x − y_i) / reach a
weighted mean of its gradients as Kη does without; the paper has no momentum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning import LightningModule
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.config import ConfigError
from fedpurin.exchange import Exchange
from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS, Round, mix_in
from fedpurin.methods.fedavg import FedAvg
from fedpurin.space import Layout, Roles


@dataclass(kw_only=True, config=OPTIONS)
class Scaffold(FedAvg):
    """FedAvg whose local steps are freed of the clients' drift, for twice the bytes; c_i is `extra["control"]`."""

    weighting: Literal["samples", "uniform"] = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._control: Tensor | None = None
        self._received: Tensor | None = None  # c as it arrived this round
        self._start: Tensor | None = None  # x of this round

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        adapted: LightningModule = mix_in("lightning_modules.Corrected", module)
        return adapted

    def begin(self, this_round: Round, exchange: Exchange, shared: Layout) -> None:
        super().begin(this_round, exchange, shared)
        if self._control is not None:  # in the first round it is zero, as everybody knows
            self._received = exchange.download(self._control, this_round.ids)
        if this_round.clients:
            self._start = this_round.clients[0].vector[: shared.length].clone()

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        if self._received is None:
            return (LocalFit(measures_reach=True),)
        correction = self._received.clone()
        if "control" in client.extra:
            correction -= client.extra["control"]
        return (LocalFit(models={"correction": correction}, measures_reach=True),)

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        changes = {}
        for client in this_round.clients:
            if math.isnan(client.reach):
                raise ConfigError(
                    "method=Scaffold divides by the learning rate, so model.configure_optimizers must return torch's SGD "
                    "without dampening, with one learning rate and momentum for all parameters"
                )
            assert self._start is not None, "begin has run"
            if client.reach == 0:  # it took no step, and has learned nothing of its gradients
                changes[client.id] = torch.zeros_like(self._start)
                continue
            change = (self._start - client.vector[: len(self._start)]) / client.reach
            changes[client.id] = change if self._received is None else change - self._received
            earlier = client.extra.get("control", torch.zeros_like(change))
            client.store("control", earlier + changes[client.id])
        mean = exchange.average(changes, dict.fromkeys(this_round.ids, 1), deliver=False)
        moved = len(this_round.ids) / this_round.num_clients * mean
        self._control = moved if self._control is None else self._control + moved
        return super().communicate(this_round, exchange)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"control": self._control}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._control = state["control"]
