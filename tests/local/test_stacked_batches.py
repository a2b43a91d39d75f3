"""A cohort's test batches: what stands side by side, and what is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedpurin.data import Pool
from fedpurin.local import stacked_batches
from fedpurin.local.client import Client
from fedpurin.local.stacked_batches import StackedTests

POOL = Pool(torch.arange(20.0).view(10, 2), torch.arange(10))


def make_client(number: int, *samples: int) -> Client:
    return Client(number, torch.zeros(1), {}, torch.tensor([0]), torch.tensor(samples))


def drawn(tests: StackedTests, clients: list[Client]) -> list[tuple[list[int], Any]]:
    return [(rows, y.tolist()) for rows, (_, y) in tests.of(clients)]


def test_clients_whose_batches_have_one_length_stand_side_by_side() -> None:
    clients = [make_client(0, 0, 1, 2), make_client(1, 3, 4), make_client(2, 5, 6, 7)]
    expected = [([0, 1, 2], [[0, 1], [3, 4], [5, 6]]), ([0, 2], [[2], [7]])]
    tests = StackedTests(POOL, 2)
    assert [drawn(tests, clients), drawn(tests, clients)] == [expected, expected]


def test_batches_are_drawn_once_unless_somebody_wrote_into_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clients, draws = [make_client(0, 0, 1), make_client(1, 2, 3)], []
    real = Pool.batches
    monkeypatch.setattr(Pool, "batches", lambda *a, **k: draws.append(1) or real(*a, **k))
    tests = StackedTests(POOL, 2)
    for _ in range(3):
        ((_, (x, _)),) = tests.of(clients)
    assert len(draws) == 2  # one a client
    torch.func.vmap(lambda row: row.mul_(0))(x)
    ((_, (again, _)),) = tests.of(clients)
    assert again.tolist() == [[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]]
    assert len(draws) == 4
    drawn(tests, [make_client(0, 4, 5), clients[1]])  # other samples under the same ids
    assert len(draws) == 6


def test_what_is_kept_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked_batches, "KEPT_BYTES", 70)  # a cohort of two with two samples each: 64 bytes
    tests = StackedTests(POOL, 2)
    for first in (0, 2):
        drawn(tests, [make_client(first, 0, 1), make_client(first + 1, 2, 3)])
    assert list(tests._kept) == [(2, 3)]
