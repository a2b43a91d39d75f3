"""Runs single-threaded kernels that release the GIL over chunks of work, on as many threads as torch may use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_items(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`function` of every item, in order; exceptions pass through."""
    work = list(items)
    threads = torch.get_num_threads()
    if threads == 1 or len(work) <= 1:
        return [function(item) for item in work]
    return list(_pool(threads).map(function, work))


def map_chunks(function: Callable[[int, int], Result], length: int, chunk: int) -> list[Result]:
    """`function(first, last)` of every chunk of `range(length)`, in order."""
    return map_items(lambda first: function(first, min(first + chunk, length)), range(0, length, chunk))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fedpurin-exchange")
