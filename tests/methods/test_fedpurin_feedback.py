"""FedPURIN with error feedback on numbers worked out by hand, and whose critical parameters stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fedpurin
from fedpurin.methods.fedpurin_feedback import effective_share
from tests.methods.test_compressed import Pull3, run3

OPTIONS = [
    "method=fedpurin_feedback", "method.density=0.34", "method.download=0.34", "program.tau=0.34", "trainer.rounds=2",
    "callbacks.mask_selection={_target_: callbacks.MaskSelection}",
]  # fmt: skip


def models(result: fedpurin.RunResult) -> list[list[float]]:
    """In the order of their first element: the first client is the one that is drawn to (4, 1, −2)."""
    return sorted(client.vector[:3].tolist() for client in result.federation.clients.values())


def test_critical_parameters_stay_and_changes_travel(tmp_path: Path) -> None:
    """Changes (2, ½, −1) and (4, −8, ½): 2 and −8 go up, the server has (1, −4, 0), of which −4 comes down to both. The first
    client keeps its 2, the second its −8: from (2, −4, 0) and (0, −8, 0) they come half the way to their targets. With what
    was not sent they change by (1, 3, −2) and (8, −4, 1): 3 and 8 go up, the server has (5, −2½, 0)."""
    result = run3(tmp_path, Pull3(), *OPTIONS)
    assert models(result) == [[3.0, -1.5, -1.0], [4.0, -12.0, 0.5]]
    one, two = sorted(result.federation.clients.values(), key=lambda client: float(client.vector[0]))
    assert [one.extra["unsent"][:3].tolist(), two.extra["unsent"][:3].tolist()] == [[1.0, 0.0, -2.0], [0.0, -4.0, 1.0]]
    assert one.extra["received"][:3].tolist() == two.extra["received"][:3].tolist() == [0.0, -4.0, 0.0]
    assert result.federation.method.state_dict()["server"][:3].tolist() == [5.0, -2.5, 0.0]
    # The next answer is 5, and both keep the middle one: (5, −1½, 0) and (5, −12, 0).
    assert result.history[1]["accuracy/merged"] == (3.5 - 7.0) / 2
    # 40 of header, 4 of table, a value of 4 and an index of 1 byte; in the first round all hold the server's model.
    sent = [(record["bytes/up"], record["bytes/down"]) for record in result.history]
    assert sent == [(2 * 49, 0), (2 * 49, 2 * 49)]
    assert [record["collaboration/keeping"] for record in result.history] == [1.0, 1.0]


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_changes_cost_their_bits(tmp_path: Path, bits: int) -> None:
    """The largest of a message's values is a level, so one value arrives whole: a byte and a scale of four."""
    result = run3(tmp_path, Pull3(), *OPTIONS, f"method.bits={bits}")
    assert models(result) == [[3.0, -1.5, -1.0], [4.0, -12.0, 0.5]]
    sent = [(record["bytes/up"], record["bytes/down"]) for record in result.history]
    assert sent == [(2 * 50, 0), (2 * 50, 2 * 50)]


def test_what_quantising_loses_waits(tmp_path: Path) -> None:
    """Two values a message, of which the smaller falls between two of seven levels; received and unsent add up."""
    result = run3(tmp_path, Pull3(), *OPTIONS, "method.density=0.67", "method.bits=4", "trainer.rounds=1")
    one, two = sorted(result.federation.clients.values(), key=lambda client: float(client.vector[0]))
    server = torch.zeros(3)
    for client, change, scale in ((one, [2.0, 0.5, -1.0], 2.0), (two, [4.0, -8.0, 0.5], 8.0)):
        sent = torch.tensor(change) - client.extra["unsent"][:3]
        assert torch.allclose(sent * 7 / scale, (sent * 7 / scale).round(), atol=1e-5)
        assert 1 <= int((client.extra["unsent"][:3] != 0).sum()) <= 2
        server += sent / 2
    assert torch.allclose(result.federation.method.state_dict()["server"][:3], server)


@pytest.mark.parametrize("personal", [0.0, 0.49])
def test_clients_of_all_classes_take_the_common_model(tmp_path: Path, personal: float) -> None:
    """Both start the second round from (0, −4, 0); each has one class of two, an effective share of a half."""
    result = run3(tmp_path, Pull3(), *OPTIONS, f"method.personal={personal}")
    assert models(result) == [[2.0, -1.5, -1.0], [4.0, -10.0, 0.5]]
    assert result.history[1]["collaboration/keeping"] == 0.0


def test_who_was_not_drawn_receives_what_it_lacks(tmp_path: Path) -> None:
    """One client a round: the first answer of each is at most a value, and only where the other has sent something."""
    result = run3(tmp_path, Pull3(), *OPTIONS, "trainer.rounds=6", "trainer.clients_per_round=1")
    assert [record["bytes/up"] for record in result.history] == [49] * 6
    assert [record["bytes/down"] for record in result.history] == [0] + [49] * 5


def test_effective_share() -> None:
    assert effective_share(torch.tensor([5, 5, 0, 0])) == pytest.approx(0.5)
    assert effective_share(torch.tensor([3, 3, 3])) == pytest.approx(1.0)
    assert effective_share(torch.tensor([9, 0])) == pytest.approx(0.5)
    assert effective_share(None) == 0.0
