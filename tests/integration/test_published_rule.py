"""A whole run against the loop-by-loop twin: training in plain PyTorch, then METHOD steps 2 to 7, round after round."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import fedpurin
from fedpurin.seeding import derive_seed, torch_generator
from fedpurin.space import unpack_mask
from tests.integration import naive

ROUNDS, CLIENTS, EPOCHS, BATCH, BETA, TAU = 3, 4, 2, 8, 3, 0.5


class Tiny(LightningModule):
    """A network with a norm, a dropout, and a tensor too small to have a critical parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.ReLU(), nn.Dropout(0.25), nn.Linear(5, 3))
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.temperature

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


def make_data(num: int, seed: int) -> TensorDataset:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 6, generator=g)
    return TensorDataset(x, (x[:, :3].sum(1) + x[:, 3]).clamp(-1.4, 1.4).round().long() + 1)


def plain_fit(
    net: Tiny, x: Tensor, y: Tensor, round_number: int, client: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The fit as anyone would write it; only the order of samples and the dropout seed are the engine's."""
    optimizer = net.configure_optimizers()
    order = torch_generator(0, "fit/order", round_number=round_number, client=client)
    torch.manual_seed(derive_seed(0, "fit/dropout", round_number=round_number, client=client))
    net.train()
    for _ in range(EPOCHS):
        for index in torch.randperm(len(x), generator=order).split(BATCH):
            optimizer.zero_grad()
            net.training_step((x[index], y[index]), 0).backward()
            optimizer.step()
    parameters = dict(net.named_parameters())
    gradients = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
    return {name: p.detach().clone() for name, p in parameters.items()}, gradients


@pytest.mark.parametrize(
    ("order", "source", "overlap", "normalise", "fill", "share_norm", "exchange"),
    [
        ("second", "gradient", "published", "collaborators", "local", False, "on_demand"),
        ("second", "gradient", "published", "collaborators", "local", False, "direct"),
        ("first", "update", "dice", "contributors", "local", False, "on_demand"),
        ("first", "gradient", "published", "contributors", "global", True, "on_demand"),
        ("second", "update", "dice", "collaborators", "global", False, "direct"),
    ],
)
def test_a_run_equals_the_naive_twin(
    tmp_path: Path,
    order: str,
    source: str,
    overlap: str,
    normalise: str,
    fill: str,
    share_norm: bool,
    exchange: str,
) -> None:
    train, test = make_data(66, 1), make_data(40, 2)
    result = fedpurin.simulate(
        [
            "method=fedpurin", f"method.beta={BETA}", f"method.overlap={overlap}", f"method.normalise={normalise}",
            f"method.fill={fill}", f"method.share_norm={share_norm}", f"scores.order={order}",
            f"scores.source={source}", f"program.tau={TAU}", f"partition.num_clients={CLIENTS}", "partition=iid",
            f"trainer.rounds={ROUNDS}", f"trainer.local_epochs={EPOCHS}", f"trainer.batch_size={BATCH}",
            "trainer.accelerator=cpu", f"exchange={exchange}",
        ],
        module=Tiny(), train=train, test=test, run_dir=tmp_path,
    )  # fmt: skip
    clients = result.federation.clients
    space = result.federation.trainer.space

    models = {i: {name: p.detach().clone() for name, p in Tiny().named_parameters()} for i in range(CLIENTS)}
    masks: dict[int, naive.Mask] = {}
    for round_number in range(ROUNDS):
        fitted = {}
        for i in range(CLIENTS):
            net = Tiny()
            net.load_state_dict(models[i])
            index = clients[i].train_indices
            after, gradient = plain_fit(net, train.tensors[0][index], train.tensors[1][index], round_number, i)
            update = {name: after[name] - models[i][name] for name in after}
            shared = [name for name in after if share_norm or not name.startswith("net.1")]
            direction = gradient if source == "gradient" else update
            c = naive.scores(
                {name: after[name] for name in shared}, {name: direction[name] for name in shared},
                order=order, source=source, cutoff=1e-10,
            )  # fmt: skip
            masks[i], fitted[i] = naive.layerwise(c, TAU), after
        groups = naive.collaborators(masks, round_number, BETA, overlap)
        merged = naive.merge(
            {i: {name: fitted[i][name] for name in masks[i]} for i in fitted}, masks, groups,
            {i: clients[i].num_train for i in clients}, normalise=normalise, fill=fill,
        )  # fmt: skip
        models = {i: {**fitted[i], **merged[i]} for i in fitted}

    for i, client in clients.items():
        assert client.mask is not None
        bits = unpack_mask(client.mask)
        for segment in space.shared:
            assert bits[segment.slice].tolist() == masks[i][segment.name], f"mask of client {i}, {segment.name}"
        for segment in space.layout:
            mine = client.vector[segment.slice].view(segment.shape)
            torch.testing.assert_close(mine, models[i][segment.name], rtol=0, atol=1e-6)
