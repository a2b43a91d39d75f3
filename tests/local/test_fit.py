"""Fits as data: what methods plan, where a fit is kept, and that nothing of a client stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedpurin.federation import Federation
from fedpurin.local.cohort import CohortExecutor
from fedpurin.local.context import LossContext, loss_context, set_loss_context
from fedpurin.local.executor import SerialExecutor
from fedpurin.local.fit import LocalFit
from fedpurin.methods import Ditto, FedRep, FedRoD, PFedSD
from fedpurin.run.build import build
from tests.methods.tiny import TEST, TRAIN, Tiny, composed


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return build(composed("local"), tmp_path, module=Tiny(), train=TRAIN, test=TEST)


def test_the_context_is_empty_outside_of_a_fit() -> None:
    assert loss_context() == LossContext()
    with set_loss_context(LossContext(values={"weight": 2.0})):
        with set_loss_context(LossContext(values={"weight": 3.0})):
            assert loss_context().values == {"weight": 3.0}
        assert loss_context().values == {"weight": 2.0}
    assert loss_context() == LossContext()


def test_a_fit_is_kept_where_it_says(federation: Federation) -> None:
    client = federation.clients[0]
    before, buffers = client.vector.clone(), {name: value.clone() for name, value in client.buffers.items()}
    client.extra["other"] = client.vector.clone()
    federation.trainer.fit(client, LocalFit(start="other", keep=("other", "copy")), 0)
    assert torch.equal(client.vector, before), "the model is not what was fitted"
    assert all(torch.equal(client.buffers[name], value) for name, value in buffers.items())
    assert not torch.equal(client.extra["other"], before)
    assert torch.equal(client.extra["copy"], client.extra["other"])
    assert client.extra["copy"].data_ptr() != client.extra["other"].data_ptr()
    federation.trainer.fit(client, LocalFit(), 0)
    assert torch.equal(client.vector, client.extra["other"]), "the same streams from the same start"
    assert not torch.equal(client.buffers["net.1.running_mean"], buffers["net.1.running_mean"])


def test_only_what_trains_changes(federation: Federation) -> None:
    client, layout = federation.clients[1], federation.trainer.space.layout
    before = client.vector.clone()
    federation.trainer.fit(client, LocalFit(trains=lambda segment: segment.is_head), 0)
    changed = {s.name: not torch.equal(before[s.slice], client.vector[s.slice]) for s in layout}
    assert changed == {s.name: s.name.startswith("net.3.") for s in layout}
    assert all(parameter.requires_grad for parameter in federation.trainer.module.parameters())


def test_a_fit_that_diverges_is_not_kept(federation: Federation) -> None:
    client = federation.clients[2]
    before = client.vector.clone()
    client.extra["broken"] = torch.full_like(client.vector, torch.nan)
    result = federation.trainer.fit_all(client, (LocalFit(start="broken", keep=("broken",)), LocalFit()), 0)
    assert result.diverged == "loss is nan"
    assert torch.equal(client.vector, before), "the second fit does not run"


def test_what_methods_plan(federation: Federation) -> None:
    client = federation.clients[0]
    head, body = FedRep(head_epochs=3, body_epochs=1).plan(client, 0)
    assert (head.epochs, head.purpose, head.scored, body.epochs, body.purpose, body.scored) == (
        3, "fit/head", False, 1, "fit", True,
    )  # fmt: skip
    segments = federation.trainer.space.layout.segments
    assert head.trains is not None
    assert body.trains is not None
    assert [head.trains(s) + body.trains(s) for s in segments] == [1] * len(segments)

    shared, personal = Ditto(lam=0.5).plan(client, 0)
    assert (shared.start, shared.keep, shared.scored) == ("global", ("global",), False)
    assert personal.values == {"proximal_weight": 0.5}
    assert personal.models["reference"].data_ptr() != client.extra["global"].data_ptr(), "the first fit moves that one"

    (first,) = PFedSD().plan(client, 0)
    assert (first.keep, first.models) == (("model", "teacher"), {})
    client.extra["teacher"] = client.vector.clone()
    (later,) = PFedSD(temperature=2.0, lam=0.25).plan(client, 1)
    assert later.models["teacher"] is client.extra["teacher"]
    assert later.values == {"temperature": 2.0, "distillation_weight": 0.25}

    client.class_counts = torch.tensor([1, 0, 4])
    for gamma, prior in ((1.0, [0.0, float("-inf"), 1.3863]), (0.0, [0.0, float("-inf"), 0.0])):
        (fit,) = FedRoD(gamma=gamma).plan(client, 0)
        assert torch.as_tensor(fit.values["log_prior"]).tolist() == pytest.approx(prior, abs=1e-4)


def test_class_counts(federation: Federation) -> None:
    for client in federation.clients.values():
        assert client.class_counts is not None
        labels = TRAIN.tensors[1][client.train_indices]
        assert client.class_counts.tolist() == [int((labels == label).sum()) for label in range(3)]


@pytest.mark.parametrize("executor", ["serial", "cohort"])
def test_only_elements_of_the_mask_change(federation: Federation, executor: str) -> None:
    """Whatever momentum does: what is held back keeps its bits, what is let through learns."""
    trainer, clients = federation.trainer, list(federation.clients.values())[:2]
    run = SerialExecutor(trainer) if executor == "serial" else CohortExecutor(trainer, 2)
    before = [client.vector.clone() for client in clients]
    masks = [torch.arange(len(before[0])) % 3 == client.id for client in clients]
    run.fit(clients, [[LocalFit(update_mask=mask, scored=False)] for mask in masks], 0)
    for client, old, mask in zip(clients, before, masks, strict=True):
        assert torch.equal(client.vector[~mask], old[~mask])
        changed = trainer.space.layout.extract(client.vector != old)
        assert changed.sum() > 0.9 * trainer.space.layout.extract(mask).sum()
