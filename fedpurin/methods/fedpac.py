"""FedPAC (Xu et al., ICLR 2023, arXiv 2306.11867, Algorithm 1): features drawn to common centroids, heads combined.

Shares the body φ, dense; every client's head h goes up and a combination of heads, its own, comes down. In a round:
    h_i ← SGD on F_i, φ fixed         φ_i ← SGD on F_i + λ·mean (f_φ(x) − c_y)², h_i fixed, c the centroids of all clients
    φ ← Σ_i (s_i / Σ_k s_k) φ_i       c_y ← Σ_i n_i,y c_i,y / Σ_i n_i,y, c_i,y the mean feature of class y under φ_i
    h_i ← Σ_j α_j h_j with α = argmin Σ_j α_j² V_j + Σ_y ‖Σ_j α_j (μ_i,y − μ_j,y)‖²,  α ≥ 0,  Σ_j α_j = 1      (their eq. 12)
where, of the n features f of client j under the φ it received, with the share p_y of class y and m_y the class mean,
    μ_j,y = p_y m_y         V_j = (mean ‖f‖² − Σ_y ‖μ_j,y‖²) / n
Weights below 10⁻³ become 0 and the others are divided by their sum; a class that the centroids lack is drawn to the
client's own mean. μ, V, p and c_i,y go up with the head. The first pass of the head's fit measures μ and V, so with batch
norm they are of batch statistics; the authors' code takes evaluation mode for all of training, and SGD with a rate of 0.1 for
the head (`head_lr`; `head_epochs` is theirs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float64
from lightning import LightningModule
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.config import ConfigError
from fedpurin.exchange import Exchange, Update
from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS, Round
from fedpurin.methods.fedper import FedPer
from fedpurin.methods.fedproto import features_shape, forget_features, sum_features
from fedpurin.space import Layout, ParameterSpace, Roles, pack_mask, unpack_mask

LEAST_WEIGHT = 1e-3


@dataclass(kw_only=True, config=OPTIONS)
class FedPAC(FedPer):
    """FedRep's alternating fits with aligned features; `extra["centroids"]` are those that a client received last."""

    needs_classes: ClassVar[bool] = True

    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """λ, strength of the pull to the centroids."""
    head_epochs: Annotated[int, Field(ge=1)] = 1
    head_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Learning rate of the head's plain SGD; None takes the module's own optimizer."""
    combine_heads: bool = True
    """False keeps every client's own head, the paper's ablation; heads and μ then do not travel."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._centroids: Tensor | None = None
        self._known: Tensor | None = None

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        return sum_features(self, module, roles)

    def check(self, space: ParameterSpace, num_participants: int) -> None:
        super().check(space, num_participants)
        self._heads = [segment for segment in space.layout if segment.is_head]

    def begin(self, this_round: Round, exchange: Exchange, shared: Layout) -> None:
        super().begin(this_round, exchange, shared)
        if self._centroids is None or self._known is None:
            return
        classes, width = self._centroids.shape
        layout = Layout.from_sizes([width] * classes)
        update = Update(layout.embed(self._centroids.flatten()), _of_classes(self._known, width, layout))
        received = exchange.answer({client.id: update for client in this_round.clients}, layout=layout)
        for client in this_round.clients:
            client.store("centroids", layout.extract(received[client.id].vector).view(classes, width))
            arrived = layout.extract(unpack_mask(received[client.id].mask)).view(classes, width)
            client.store("has_centroid", arrived.any(1).float())

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        forget_features(client)
        goals = torch.zeros_like(client.buffers["prototype_sums"])
        values: dict[str, Tensor | float] = {}
        if "centroids" in client.extra:
            values = {"prototypes": goals, "has_prototype": torch.ones_like(goals[:, 0]), "prototype_weight": self.lam}

        def after_head(client: Client) -> None:
            means, share = _describe(client)
            signature = means * share.unsqueeze(1)
            total = client.buffers["prototype_squares"] / client.buffers["prototype_counts"].sum()
            client.store("signature", signature)
            client.store("variance", (total - signature.square().sum()) / client.num_train)
            if values:
                has = client.extra["has_centroid"].unsqueeze(1) > 0
                goals.copy_(torch.where(has, client.extra["centroids"], means))

        head = LocalFit(
            trains=lambda segment: segment.is_head,
            epochs=self.head_epochs,
            lr=self.head_lr,
            purpose="fit/head",
            scored=False,
        )
        body = LocalFit(trains=lambda segment: not segment.is_head, prepare=after_head, values=values)
        return head, body, LocalFit(probes=True, prepare=forget_features, purpose="probe", scored=False)

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        super().communicate(this_round, exchange)
        classes, width = features_shape(this_round, exchange)
        signed = classes if self.combine_heads else 0
        layout = Layout.from_sizes([1, classes] + [width] * (signed + classes))
        updates = {client.id: self._statistics(client, layout) for client in this_round.clients}
        total, weight = torch.zeros(classes, width), torch.zeros(classes)
        total, weight = total.to(exchange.processes.device), weight.to(exchange.processes.device)
        variances, signatures = [], []
        for client_id, received in exchange.gather(updates, layout=layout):
            sizes = [1, classes, width * signed, width * classes]
            variance, share, *rest = layout.extract(received.vector).split_with_sizes(sizes)
            number = this_round.num_train[client_id] * share
            total += number.unsqueeze(1) * rest[1].view(classes, width)
            weight += number
            variances.append(float(variance))
            signatures.append(rest[0].double().cpu().numpy())
        self._known = (weight > 0).float()
        self._centroids = total / torch.where(weight > 0, weight, 1.0).unsqueeze(1)
        return self._combine(this_round, exchange, variances, signatures) if self.combine_heads else {}

    def _statistics(self, client: Client, layout: Layout) -> Update:
        """V, p, μ of the client's classes and their means after the fit."""
        means, share = _describe(client)
        signed = [client.extra["signature"].flatten()] if self.combine_heads else []
        vector = torch.cat([client.extra["variance"], share, *signed, means.flatten()])
        has = (share > 0).repeat_interleave(means.shape[1])
        sent = torch.cat([torch.ones(1 + len(share), dtype=torch.bool, device=has.device), *[has] * (1 + len(signed))])
        return Update(layout.embed(vector), pack_mask(layout.embed(sent)))

    def _combine(
        self,
        this_round: Round,
        exchange: Exchange,
        variances: Sequence[float],
        signatures: Sequence[Float64[np.ndarray, " any_size"]],
    ) -> dict[str, float]:
        layout = Layout.from_segments(self._heads)
        sent = {
            client.id: Update(layout.embed(torch.cat([client.vector[s.slice] for s in self._heads])))
            for client in this_round.clients
        }
        heads = [received.vector for _, received in exchange.gather(sent, layout=layout)]
        answers, own = {}, []
        for client in this_round.clients:
            place = this_round.ids.index(client.id)
            weights = combination(variances, signatures, place)
            mixed = torch.zeros_like(heads[0])
            for weight, head in zip(weights.tolist(), heads, strict=True):
                mixed += weight * head
            answers[client.id] = Update(mixed)
            own.append(float(weights[place]))
        received = exchange.answer(answers, layout=layout)
        for client in this_round.clients:
            for segment, at in zip(self._heads, layout, strict=True):
                client.vector[segment.slice] = received[client.id].vector[at.slice]
        everybodys = [weight for part in exchange.processes.gather_objects(own) for weight in part]
        return {"collaboration/own": float(np.sort(everybodys).mean())}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"centroids": self._centroids, "known": self._known}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._centroids, self._known = state["centroids"], state["known"]


def combination(
    variances: Sequence[float], signatures: Sequence[Float64[np.ndarray, " any_size"]], place: int
) -> Float64[np.ndarray, " clients"]:
    """α of the client at `place`: what the weights of all heads are for it."""
    from fedpurin.selection.simplex import minimise_on_simplex  # CVXPY takes seconds to import; few runs need it

    away = np.stack(signatures) - signatures[place]
    weights = minimise_on_simplex(np.diag(np.maximum(variances, 0.0)) + away @ away.T)
    weights = np.where(weights > LEAST_WEIGHT, weights, 0.0)
    scaled: Float64[np.ndarray, " clients"] = weights / weights.sum()
    return scaled


def _describe(client: Client) -> tuple[Tensor, Tensor]:
    """Mean feature and share of each class among the samples that were summed."""
    counts = client.buffers["prototype_counts"]
    if not counts.any():
        raise ConfigError(
            f"method=FedPAC combines clients by the features of their batches, and training_step returned None for all of "
            f"client {client.id}'s in a fit: skip fewer, or choose another method"
        )
    if not torch.isfinite(client.buffers["prototype_squares"]).all():
        raise ConfigError(
            f"method=FedPAC combines clients by their features, and the squares of client {client.id}'s are beyond float32: "
            "its model is about to diverge; a smaller model.lr helps"
        )
    return client.buffers["prototype_sums"] / counts.clamp(min=1).unsqueeze(1), counts / counts.sum()


def _of_classes(known: Tensor, width: int, layout: Layout) -> Tensor:
    return pack_mask(layout.embed((known > 0).repeat_interleave(width)))
