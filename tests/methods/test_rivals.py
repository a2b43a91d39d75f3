"""The dense and the sparse personalised rivals on numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedpurin.config import ConfigError
from fedpurin.local.fit import LocalFit
from fedpurin.local.reach import Reach
from fedpurin.methods.fedpac import combination
from fedpurin.methods.fedproto import forget_features
from tests.methods.test_methods import Pull, pull
from tests.methods.tiny import TEST, TRAIN, Tiny, simulate


def test_scaffold(tmp_path: Path) -> None:
    """From 0 one step goes to ½ and 1½, mean 1; c_1 = −1, c_2 = −3, c = −2. From 1, gradients 0 and −2, corrected by
    c − c_i = −1 and 1 to −1 each: both go to 1½. Uncorrected they would go to 1 and 2, and drift in a second step."""
    values, record, federation = pull(tmp_path, "method=scaffold", "trainer.rounds=2")
    assert values == pytest.approx([1.5, 1.5])
    controls = [float(client.extra["control"][0]) for client in federation.clients.values()]
    # c_i⁺ = c_i − c + (x − y_i)/½ = −1 + 2 − 1 and −3 + 2 − 1
    assert sorted(controls) == pytest.approx([-2.0, 0.0], abs=1e-6)
    dense = 40 + 4 + 4
    assert (record["bytes/up"], record["bytes/down"]) == (4 * dense, 4 * dense)


def test_scaffold_does_not_drift(tmp_path: Path) -> None:
    """Four local steps a round: FedAvg's clients end on their own optima, SCAFFOLD's move together from round two on."""
    four = ["trainer.rounds=2", "trainer.local_epochs=4"]
    _, _, scaffold = pull(tmp_path / "s", "method=scaffold", *four)
    start = 2 * (1 - 0.5**4)
    assert float(scaffold.clients[0].vector[0]) == pytest.approx(start + (2 - start) * (1 - 0.5**4), abs=1e-5)


def test_scaffold_needs_a_learning_rate(tmp_path: Path) -> None:
    class Adam(Tiny):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    with pytest.raises(ConfigError, match="method=Scaffold divides by the learning rate"):
        simulate(tmp_path, "method=scaffold", module=Adam())


def test_reach() -> None:
    """½ + ½ without momentum; with 0.5: ½·1 + ½·1½; Nesterov's looks one step ahead: ½·1½ + ½·1¾."""
    for options, expected in (((0.0, False), 1.0), ((0.5, False), 1.25), ((0.5, True), 1.625)):
        reach = Reach()
        for _ in range(2):
            reach.step([{"lr": 0.5, "momentum": options[0], "nesterov": options[1]}])
        assert reach.total == expected
    assert Pull().configure_optimizers().param_groups[0]["nesterov"] is False


def test_fedbabu_leaves_the_head(tmp_path: Path) -> None:
    federation = simulate(tmp_path, "method=fedbabu").federation
    views = {
        client_id: federation.trainer.space.views(client.vector) for client_id, client in federation.clients.items()
    }
    for name, first in dict(Tiny().named_parameters()).items():
        assert all(torch.equal(view[name], first) == name.startswith("net.3") for view in views.values()), name
    for client_id, client in federation.clients.items():
        tuned = federation.trainer.space.views(client.extra["personal"])
        assert not torch.equal(tuned["net.3.weight"], views[client_id]["net.3.weight"])
        net = Tiny().eval()
        net.load_state_dict(tuned | client.personal_buffers)
        x, y = (tensor[client.test_indices] for tensor in TEST.tensors)
        assert client.metrics["accuracy/personalized"] == pytest.approx(float((net(x).argmax(1) == y).float().mean()))


def test_fedproto(tmp_path: Path) -> None:
    """Class means of five features each: 40 bytes of header, and for each class 4 of table and 20 of values."""
    result = simulate(tmp_path, "method=fedproto", "partition=iid")
    assert result.history[-1]["prototypes/classes"] == 3
    assert result.history[-1]["bytes/down"] == 4 * (40 + 3 * (4 + 20))
    prototypes = [client.extra["prototypes"] for client in result.federation.clients.values()]
    assert all(torch.equal(prototypes[0], other) for other in prototypes)
    counts = [client.buffers["prototype_counts"].sum() for client in result.federation.clients.values()]
    assert all(
        seen >= 2 * client.num_train - 2
        for seen, client in zip(counts, result.federation.clients.values(), strict=True)
    )


def test_fedpac_combines_heads() -> None:
    """V = 1 each and a squared distance of 2: P = diag(1, 1 + 2), so α = (¾, ¼). Far away: below 10⁻³, alone."""
    near, far = [np.zeros(2), np.array([1.0, 1.0])], [np.zeros(2), np.array([40.0, 0.0])]
    assert combination([1.0, 1.0], near, 0) == pytest.approx([0.75, 0.25], abs=1e-9)
    assert combination([1.0, 1.0], near, 1) == pytest.approx([0.25, 0.75], abs=1e-9)
    assert combination([1.0, 1.0], far, 1).tolist() == [0.0, 1.0]
    assert combination([0.5], [np.zeros(2)], 0).tolist() == [1.0]
    assert combination([1.0, 2.0, 2.0], [np.zeros(2)] * 3, 0) == pytest.approx([0.5, 0.25, 0.25], abs=1e-9)


def test_fedpac_bytes(tmp_path: Path) -> None:
    """Headers of 40 and 4 of table a tensor. Up: the body, V and three shares with six means of five, the head."""
    record = simulate(tmp_path, "method=fedpac", "partition=iid").history[-1]
    body, head = 40 + 4 * 4 + 4 * (30 + 5 + 5 + 5), 40 + 2 * 4 + 4 * (15 + 3)
    statistics, centroids = 40 + 8 * 4 + 4 * (1 + 3 + 6 * 5), 40 + 3 * 4 + 4 * 15
    assert record["bytes/up"] == 4 * (body + statistics + head)
    assert record["bytes/down"] == 4 * (centroids + body + head)


def test_a_fit_that_probes_leaves_the_model(tmp_path: Path) -> None:
    """The features' sums are of the fitted model, and neither weights, running statistics nor counters move."""
    federation = simulate(tmp_path, "method=fedpac", "trainer.rounds=1").federation
    client, trainer = federation.clients[0], federation.trainer
    before = client.vector.clone(), client.epochs, client.steps
    statistics = {name: b.clone() for name, b in client.buffers.items() if not name.startswith("prototype_")}
    result = trainer.fit(client, LocalFit(probes=True, prepare=forget_features, scored=False), 1)
    assert torch.equal(client.vector, before[0])
    assert (client.epochs, client.steps, result.num_steps) == (*before[1:], 0)
    assert all(torch.equal(client.buffers[name], value) for name, value in statistics.items())
    net = Tiny().eval()
    net.load_state_dict(trainer.space.views(client.vector) | statistics)
    x, y = (tensor[client.train_indices] for tensor in TRAIN.tensors)
    features = net.net[:3](x).detach()
    for label in range(3):
        torch.testing.assert_close(client.buffers["prototype_sums"][label], features[y == label].sum(0))
    assert client.buffers["prototype_counts"].tolist() == torch.bincount(y, minlength=3).tolist()


def test_fedala(tmp_path: Path) -> None:
    """After round one ½ and 1½, mean 1. The first is best served by the mean and stays there; the second's weight goes from
    1 to 1 − (−2)·(−½) = 0, so it keeps its 1½ and goes on to 2¼."""
    values, _, federation = pull(tmp_path, "method=fedala", "method.first_epochs=1", "trainer.rounds=2")
    assert values == pytest.approx([1.0, 2.25])
    weights = sorted(float(client.extra["weights"][0]) for client in federation.clients.values())
    assert weights == pytest.approx([0.0, 1.0], abs=1e-6)


def test_apfl(tmp_path: Path) -> None:
    """w goes to ½ and 1½, mean 1; v half as far, since α = ½; α stays, because v and w were the same."""
    values, record, federation = pull(tmp_path, "method=apfl", "trainer.rounds=1")
    assert values == pytest.approx([1.0, 1.0])
    views = [federation.trainer.space.views(client.vector) for client in federation.clients.values()]
    assert sorted(float(view["personal.w"]) for view in views) == pytest.approx([0.25, 0.75])
    assert [float(view["personal.alpha"]) for view in views] == [0.5, 0.5]
    assert record["bytes/up"] == 2 * 48


def test_fedamp(tmp_path: Path) -> None:
    """½ and 1½ at a squared distance of 1: each takes e⁻¹ = 0.3679 of the other."""
    values, record, _ = pull(
        tmp_path, "method=fedamp", "method.sigma=1", "method.step=1", "method.lam=0", "trainer.rounds=1"
    )
    assert values == pytest.approx([0.86788, 1.13212], abs=1e-5)
    assert (record["bytes/up"], record["bytes/down"]) == (2 * 48, 2 * 48)
    assert record["collaboration/own"] == pytest.approx(0.63212, abs=1e-5)


def test_fedamp_refuses_negative_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method.step must be at most 1$"):
        pull(tmp_path, "method=fedamp", "method.sigma=1", "method.step=2", "trainer.rounds=1")


def test_per_fedavg(tmp_path: Path) -> None:
    """One step of ½ gets from 0 to x/2, where the gradient is −x/2: w = x/4, mean ½. Adapted from 0: x/2."""
    values, _, federation = pull(tmp_path, "method=per_fedavg", "method.alpha=0.5", "trainer.rounds=1")
    assert values == pytest.approx([0.5, 0.5])
    assert sorted(float(c.extra["personal"][0]) for c in federation.clients.values()) == pytest.approx([0.5, 1.5])


def test_pfedme(tmp_path: Path) -> None:
    """One inner step of ½ gets θ to x/2; w follows by ½·λ·x/2 with λ = 1; mean ½."""
    options = ["method.lam=1", "method.steps=1", "method.rate=0.5", "method.personal_epochs=1"]
    values, _, federation = pull(tmp_path, "method=pfedme", *options, "trainer.rounds=1")
    assert values == pytest.approx([0.5, 0.5])
    assert sorted(float(c.extra["personal"][0]) for c in federation.clients.values()) == pytest.approx([0.5, 1.5])
