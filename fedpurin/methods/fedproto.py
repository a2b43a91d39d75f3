"""FedProto (Tan et al., AAAI 2022, arXiv 2105.00243, Algorithm 1): clients share class means of features, and no parameter.

Every client keeps its model. With f the features that its head takes in, and c_i,y the mean of f over the samples of
class y that it saw in its fit:
    w_i ← SGD on F_i + λ·mean_k (f_k(x) − c̄_y,k)²        c̄_y ← mean of c_i,y over the clients that have class y
The means of the classes that a client has go up, those of all classes come down, each as one sparse message. Means are
unweighted, as in the authors' code and PFLlib. Every accuracy is the classifier's; the paper also measures the nearest mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from lightning import LightningModule
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedpurin.config import ConfigError
from fedpurin.exchange import Exchange, Update
from fedpurin.local.client import Client
from fedpurin.local.fit import LocalFit
from fedpurin.methods.base import OPTIONS, Method, Round, mix_in, require_head
from fedpurin.space import Layout, ParameterSpace, Roles, pack_mask, unpack_mask


@dataclass(kw_only=True, config=OPTIONS)
class FedProto(Method):
    """Local training towards common class means; `extra["prototypes"]` holds those that a client received last."""

    keeps_models: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = True

    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """λ, strength of the pull; the paper takes 1 on MNIST and CIFAR-10, 0.1 on CIFAR-100."""

    def adapt(self, module: LightningModule, roles: Roles) -> LightningModule:
        return sum_features(self, module, roles)

    def check(self, space: ParameterSpace, num_participants: int) -> None:
        require_head(self, space)

    def plan(self, client: Client, round_number: int) -> tuple[LocalFit, ...]:
        forget_features(client)
        if "prototypes" not in client.extra:
            return (LocalFit(),)
        values: dict[str, Tensor | float] = {"prototype_weight": self.lam}
        values["prototypes"] = client.extra["prototypes"]
        values["has_prototype"] = client.extra["has_prototype"]
        return (LocalFit(values=values),)

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        shape = features_shape(this_round, exchange)
        layout = Layout.from_sizes([shape[1]] * shape[0], [f"class {number}" for number in range(shape[0])])
        updates = {}
        for client in this_round.clients:
            counts = client.buffers["prototype_counts"]
            means = client.buffers["prototype_sums"] / counts.clamp(min=1).unsqueeze(1)
            has = layout.embed((counts > 0).repeat_interleave(shape[1]))
            updates[client.id] = Update(layout.embed(means.flatten()), pack_mask(has))
        weights: Mapping[int, float] = dict.fromkeys(this_round.ids, 1)
        mean, senders = exchange.average_updates(updates, weights, divide_by="senders", layout=layout)
        known = pack_mask(senders > 0)
        received = exchange.answer({client.id: Update(mean, known) for client in this_round.clients}, layout=layout)
        for client in this_round.clients:
            client.store("prototypes", layout.extract(received[client.id].vector).view(shape))
            arrived = layout.extract(unpack_mask(received[client.id].mask)).view(shape)
            client.store("has_prototype", arrived.any(1).float())
        return {"prototypes/classes": float(torch.unique(torch.nonzero(senders) // _width(layout)).numel())}


def sum_features(method: Method, module: LightningModule, roles: Roles) -> LightningModule:
    """Let the clients' module sum the features that its head takes in, by class, while it is fitted."""
    path = roles.head_path(module)
    if path is None:
        return module  # `check` will say so
    adapted: Any = mix_in("lightning_modules.Prototyping", module)
    try:
        adapted.watch_features(path)
    except TypeError as error:
        raise ConfigError(f"method={type(method).__name__} needs a linear head (roles.head): {error}") from None
    return adapted  # type: ignore[no-any-return]


def forget_features(client: Client) -> None:
    """Start a client's sums again."""
    for name in ("prototype_sums", "prototype_counts", "prototype_squares"):
        client.buffers[name].zero_()


def features_shape(this_round: Round, exchange: Exchange) -> tuple[int, int]:
    """Classes and features, also on a rank where no participant lives."""
    shapes = [list(client.buffers["prototype_sums"].shape) for client in this_round.clients[:1]]
    classes, features = next(shape for part in exchange.processes.gather_objects(shapes) for shape in part)
    return classes, features


def _width(layout: Layout) -> int:
    """Elements from the start of one class to the next."""
    return layout.segments[1].offset if len(layout) > 1 else layout.length
