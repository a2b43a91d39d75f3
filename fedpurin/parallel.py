"""Runs single-threaded kernels that release the GIL over pieces of work, on as many threads as torch may use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_TASKS_PER_THREAD = 4
"""Few enough that handing them over costs little, enough that no thread waits long for the last one."""

_worker = threading.local()


def map_items(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`function` of every item, in order; exceptions pass through.

    Inside another `map_items` the items run one after the other: the outer one keeps all threads busy.
    """
    return list(iterate_items(function, items))


def iterate_items(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map_items` for large results: on one thread each is made when it is asked for."""
    work = list(items)
    if len(work) <= 1 or not is_parallel():
        return map(function, work)
    threads = torch.get_num_threads()
    size = -(-len(work) // (_TASKS_PER_THREAD * threads))
    groups = [work[first : first + size] for first in range(0, len(work), size)]
    parts = _pool(threads).map(lambda group: [function(item) for item in group], groups)
    return (result for part in parts for result in part)


def map_chunks(function: Callable[[int, int], Result], length: int, chunk: int) -> list[Result]:
    """`function(first, last)` of every chunk of `range(length)`, in order."""
    return map_items(lambda first: function(first, min(first + chunk, length)), range(0, length, chunk))


def is_parallel() -> bool:
    """Whether cutting work into pieces would use more than this thread."""
    return torch.get_num_threads() > 1 and not getattr(_worker, "busy", False)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    def mark() -> None:
        _worker.busy = True

    return ThreadPoolExecutor(threads, thread_name_prefix="fedpurin-kernels", initializer=mark)
