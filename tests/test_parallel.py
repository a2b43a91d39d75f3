"""The one pool of threads for kernels."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from fedpurin.parallel import is_parallel, iterate_items, map_chunks, map_items


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    assert map_items(lambda item: item * item, range(20)) == [item * item for item in range(20)]
    assert list(iterate_items(str, range(3))) == ["0", "1", "2"]
    assert map_chunks(lambda first, last: (first, last), 7, 3) == [(0, 3), (3, 6), (6, 7)]
    assert map_items(str, []) == []


def test_what_is_inside_another_runs_in_its_thread(threads: int) -> None:
    def outer(_: int) -> set[int]:
        return {threading.get_ident(), *map_items(lambda _: threading.get_ident(), range(4))}

    assert all(len(used) == 1 for used in map_items(outer, range(4))) or not is_parallel()


def test_on_one_thread_results_are_made_when_they_are_asked_for() -> None:
    before, made = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        results = iterate_items(made.append, range(3))
        next(results)
        assert made == [0]
    finally:
        torch.set_num_threads(before)


def test_an_exception_passes_through(threads: int) -> None:
    def fail(item: int) -> None:
        if item == 3:
            raise KeyError(item)

    with pytest.raises(KeyError, match="3"):
        map_items(fail, range(5))
