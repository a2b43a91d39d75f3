"""Methods whose clients share elements of their own choice, on numbers worked out by hand.

One weight matrix of three elements goes half the way to the client's target in a step: (4, 1, −2) or (8, −16, 1), from 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedpurin.config import ConfigError
from fedpurin.local.client import Client
from fedpurin.methods import DisPFL, FedSpa, Round
from fedpurin.space import Layout, Segment
from tests.methods.test_compressed import Pull3, pull3, run3
from tests.methods.tiny import simulate


class Matrix(Pull3):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, 3))


def matrix(run_dir: Path, *overrides: str) -> tuple[list[list[float]], list[dict[str, Any]]]:
    """Both clients' models after two rounds, the one with the first target first, and the records."""
    result = run3(run_dir, Matrix(), "trainer.rounds=2", *overrides)
    models = [client.vector[:3].tolist() for client in result.federation.clients.values()]
    return sorted(models), result.history


def test_sub_fedavg_prunes_where_the_order_moved(tmp_path: Path) -> None:
    """Two epochs: (3, ¾, −1½) and (6, −12, ¾), mean (4½, −5⅝, −⅜). From there the first client's smallest element after one
    epoch is the third, after two the second, which goes; the second client's is the third both times: it waits."""
    models, history = matrix(tmp_path, "method=sub_fedavg", "method.rate=0.34", "method.accuracy=0")
    assert models[0] == pytest.approx([4.125, 0.0, -1.59375])
    assert models[1] == pytest.approx([7.125, -13.40625, 0.65625])
    assert [record["update/density"] for record in history] == pytest.approx([1.0, 5 / 6])
    # Header and table, then three values, or two and a byte that says which.
    assert [record["bytes/up"] for record in history] == [56 + 56, 53 + 56]
    assert [record["bytes/down"] for record in history] == [0, 56 + 56]


def test_sub_fedavg_stops_at_the_target(tmp_path: Path) -> None:
    models, _ = matrix(tmp_path, "method=sub_fedavg", "method.rate=0.34", "method.accuracy=0", "method.target=0")
    assert all(0.0 not in model for model in models)


def test_lotteryfl_starts_again_from_the_initial_weights(tmp_path: Path) -> None:
    """(2, ½, −1) and (4, −8, ½), mean (3, −3¾, −¼): both drop the third element and start again from 0."""
    models, history = matrix(tmp_path, "method=lotteryfl", "method.rate=0.34", "method.accuracy=0")
    assert models == [pytest.approx([2.0, 0.5, 0.0]), pytest.approx([4.0, -8.0, 0.0])]
    assert (history[1]["bytes/up"], history[1]["bytes/down"]) == (2 * 53, 2 * 56)


def test_lotteryfl_waits_for_accuracy(tmp_path: Path) -> None:
    """What `validation_step` logs as accuracy is Σw of the mean, −1 for both."""
    models, _ = matrix(tmp_path, "method=lotteryfl", "method.rate=0.34")
    assert all(0.0 not in model for model in models)


def test_fedselect_keeps_what_moved_most(tmp_path: Path) -> None:
    """The first element of the first client and the second of the second become personal; the others take the mean."""
    models, history = matrix(tmp_path, "method=fedselect", "method.rate=0.34")
    assert models[0] == pytest.approx([3.0, -1.375, -1.125])
    assert models[1] == pytest.approx([5.5, -12.0, 0.375])
    assert history[1]["update/density"] == pytest.approx(2 / 3)
    assert (history[1]["bytes/up"], history[1]["bytes/down"]) == (2 * 53, 2 * 56)


def test_fedspa_moves_masks_of_constant_size(tmp_path: Path) -> None:
    """Half of 30 and of 15 weights (8), and all 18 biases and norms; RSM's masks stay."""
    federation = simulate(tmp_path / "a", "method=fedspa").federation
    space = federation.trainer.space
    masks = [space.layout.extract(client.extra["kept"]) for client in federation.clients.values()]
    assert [int(mask.sum()) for mask in masks] == [15 + 8 + 18] * 4
    assert not torch.equal(masks[0], masks[1])
    for client in federation.clients.values():
        assert not space.views(client.vector)["net.0.weight"].flatten().ne(0).sum() > 15
    still = simulate(tmp_path / "b", "method=fedspa", "method.evolve=false").federation
    assert not torch.equal(masks[0], space.layout.extract(still.clients[0].extra["kept"]))


def test_fedspa_sends_its_masks_apart_in_both_modes(tmp_path: Path) -> None:
    records = [
        simulate(tmp_path / mode, "method=fedspa", f"exchange={mode}").history for mode in ("direct", "on_demand")
    ]
    assert [record["bytes/up"] for record in records[0]] == [record["bytes/up"] for record in records[1]]
    assert records[0][0]["bytes/up/mask"] > 4 * (40 + 4 * 6)


def test_fedspa_drops_the_smallest_and_takes_the_steepest() -> None:
    method = FedSpa()
    method._shared = Layout.from_segments([Segment("weight", 0, 4, (2, 2))])
    vector, gradient = torch.zeros(64), torch.zeros(64)
    vector[:2], gradient[:4] = torch.tensor([3.0, -1.0]), torch.tensor([0.0, 0.1, 0.2, -0.5])
    kept = torch.tensor([1.0, 1.0, 0.0, 0.0] + [1.0] * 60)
    client = Client(0, vector, {}, torch.arange(1), torch.arange(1), extra={"kept": kept, "gradient": gradient})
    method._move(client, share=0.5)
    assert client.extra["kept"][:4].tolist() == [1.0, 0.0, 0.0, 1.0]


def test_there_must_be_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="method=FedSelect chooses among the weights of layers"):
        pull3(tmp_path, "method=fedselect", "trainer.rounds=1")


FULL = ["method=dispfl", "method.density=1", "method.evolve=false", "method.topology=full"]


def test_dispfl_is_counted_from_client_to_client(tmp_path: Path) -> None:
    """Dense and all with all: (2, ½, −1) and (4, −8, ½), mean (3, −3¾, −¼), then half the way to the targets again. A
    message of three values is 56 bytes; each of the two sends one and receives one a round."""
    models, history = matrix(tmp_path, *FULL)
    assert models == [pytest.approx([4.5, -5.625, -0.375])] * 2
    for record in history:
        assert (
            record["bytes/up/peers"]
            == record["bytes/down/peers"]
            == record["bytes/up"]
            == record["bytes/down"]
            == 2 * 56
        )
        assert record["peers/messages"] == 2


def test_dispfl_takes_what_somebody_has(tmp_path: Path) -> None:
    """One element of three each: where only one of the two has it, its value is the mean."""
    result = run3(tmp_path, Matrix(), "trainer.rounds=1", *FULL[:1], "method.density=0.34", *FULL[2:])
    clients = list(result.federation.clients.values())
    for client in clients:
        kept = client.extra["kept"][:3].bool()
        assert int(kept.sum()) == 1
        assert bool((client.vector[:3] != 0).eq(kept).all())


def participants(*ids: int) -> Round:
    return Round(3, 10, ids, dict.fromkeys(ids, 1), [], seed=5)


def test_dispfl_neighbours() -> None:
    ring = DisPFL(topology="ring").senders(participants(1, 4, 6, 9))
    assert ring == {1: (4, 9), 4: (1, 6), 6: (4, 9), 9: (1, 6)}
    assert DisPFL(topology="ring").senders(participants(2, 7)) == {2: (7,), 7: (2,)}
    assert DisPFL(topology="ring").senders(participants(2)) == {2: ()}
    drawn = DisPFL(neighbours=2).senders(participants(*range(8)))
    assert all(len(set(own)) == 2 and client_id not in own for client_id, own in drawn.items())
    assert drawn == DisPFL(neighbours=2).senders(participants(*range(8)))
    assert drawn != DisPFL(neighbours=2).senders(Round(4, 10, tuple(range(8)), {}, [], seed=5))
    assert DisPFL(neighbours=20).senders(participants(1, 2, 3)) == {1: (2, 3), 2: (1, 3), 3: (1, 2)}


def test_sparsyfed_sends_the_largest_weights(tmp_path: Path) -> None:
    """α = 1, two of three: (2, 0, −1) and (4, −8, 0), mean (3, −4, −½); both go on from there."""
    models, history = matrix(tmp_path, "method=sparsyfed", "method.density=0.67", "method.alpha=1")
    # (3½, −1½, −1¼) and (5½, −10, ¼) without their smallest: mean (4½, −5¾, 0)
    assert models == [pytest.approx([4.5, -5.75, 0.0])] * 2
    assert [record["bytes/up"] for record in history] == [53 + 53, 53 + 53]
    assert [record["bytes/down"] for record in history] == [0, 56 + 56]
