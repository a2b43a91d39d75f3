"""Data sets and modules whose batches are no (x, y): mappings, several inputs, numbers as targets, unequal lengths."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence


class Listed(torch.utils.data.Dataset[Any]):
    """A data set of samples that are there."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def halves(samples: list[Any]) -> tuple[Listed, Listed]:
    return Listed(samples[: 2 * len(samples) // 3]), Listed(samples[2 * len(samples) // 3 :])


def points(count: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(count, 6, generator=g)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def mappings(count: int = 120) -> tuple[Listed, Listed]:
    return halves([{"features": a, "more": {"label": int(b)}, "labels": int(b)} for a, b in zip(*points(count))])  # noqa: B905


def two_inputs(count: int = 120) -> tuple[Listed, Listed]:
    return halves([(a[:2], a[2:].tolist(), int(b)) for a, b in zip(*points(count))])  # noqa: B905


def numbers(count: int = 120) -> tuple[Listed, Listed]:
    x, _ = points(count)
    return halves([(a, float(a.sum())) for a in x])


def sequences(count: int = 120) -> tuple[Listed, Listed, Any]:
    g = torch.Generator().manual_seed(4)
    lengths = torch.randint(2, 9, (count,), generator=g).tolist()
    return *halves([(torch.randint(1, 9, (n,), generator=g), n % 2) for n in lengths]), pad


def pad(samples: list[Any]) -> dict[str, Tensor]:
    tokens, labels = zip(*samples, strict=True)
    return {"tokens": pad_sequence(list(tokens), batch_first=True), "labels": torch.tensor(labels)}


class Base(LightningModule):
    """Logs the accuracy of what `read` makes of a batch: logits and classes."""

    net: nn.Module

    def read(self, batch: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.cross_entropy(*self.read(batch))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits, labels = self.read(batch)
        self.log("accuracy", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2)


class OfMappings(Base):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)

    def read(self, batch: Any) -> tuple[Tensor, Tensor]:
        assert list(batch) == ["features", "more", "labels"]
        return self.net(batch["features"]), batch["more"]["label"]


class OfTwoInputs(Base):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.other = nn.Linear(2, 3), nn.Linear(4, 3)

    def read(self, batch: Any) -> tuple[Tensor, Tensor]:
        first, second, labels = batch
        return self.net(first) + self.other(second), labels


class OfSequences(Base):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.net = nn.Embedding(9, 4), nn.Linear(4, 2)

    def read(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.net(self.embedding(batch["tokens"]).sum(1)), batch["labels"]


class OfNumbers(Base):
    """Regression: it logs no accuracy."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.mse_loss(self.net(batch[0]).squeeze(1), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        error = self.net(batch[0]).squeeze(1) - batch[1]
        self.log_dict({"mse": error.square().mean(), "mae": error.abs().mean()})
