"""The dense and the sparse personalised rivals on numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedpurin.config import ConfigError
from fedpurin.local.reach import Reach
from tests.methods.test_methods import Pull, pull
from tests.methods.tiny import Tiny, simulate


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
    views = {id: federation.trainer.space.views(client.vector) for id, client in federation.clients.items()}
    for name, first in dict(Tiny().named_parameters()).items():
        assert all(torch.equal(view[name], first) == name.startswith("net.3") for view in views.values()), name
    for id, client in federation.clients.items():
        tuned = federation.trainer.space.views(client.extra["personal"])
        assert not torch.equal(tuned["net.3.weight"], views[id]["net.3.weight"])
