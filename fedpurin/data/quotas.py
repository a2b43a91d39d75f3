"""How many samples of each class each client gets: whole numbers with exact row sums, under what a pool holds.

Owns: the arithmetic between a target (class shares and client sizes, real numbers) and counts that can be dealt
out. Does not own: the rules that make the target and the samples themselves (partitions.py).

Three steps. `share_out` makes whole client sizes. `rescale_shares` moves the target as little as the pool demands, by
iterative proportional fitting (Deming & Stephan 1940). `round_counts` rounds by largest remainder; where that
overdraws a class, it carries rounding errors from client to client, and moves what is still too much between
classes along augmenting paths, so it finds counts whenever there are any.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]

_MAX_SWEEPS = 500
_SLACK = 0.01  # samples by which a class may stay overdrawn before it is rounded
_TINY_SHARE = 1e-6  # what a class that a client may hold weighs at least where shares are rescaled
_NOISE = 1e-9  # rounding error of a target: 2.9999999999 is 3


def share_out(total: int, weights: Float64[np.ndarray, " clients"], floor: int) -> Int64[np.ndarray, " clients"]:
    """Whole sizes that add up to `total`, in proportion to `weights` where that is above `floor`.

    Raises:
        ValueError: the floors alone add up to more than `total`.
    """
    if total < floor * len(weights):
        raise ValueError(f"{len(weights)} floors of {floor} add up to more than {total}")
    raised = np.zeros(len(weights), dtype=bool)
    while True:
        rest = total - floor * int(raised.sum())
        sizes = np.where(raised, floor, weights * rest / max(weights[~raised].sum(), np.finfo(float).tiny))
        below = ~raised & (sizes < floor - _NOISE)
        if not below.any():
            rounded: Counts = largest_remainder(sizes[None], np.array([total]))[0]
            return rounded
        raised |= below


def largest_remainder(
    targets: Float64[np.ndarray, "n k"],
    totals: Int64[np.ndarray, " n"],
    bonus: Float64[np.ndarray, " k"] | float = 0.0,
) -> Int64[np.ndarray, "n k"]:
    """Round every row of `targets` down, then up by one where the most was lost, until it sums to its total.

    Ties go to the lower column. A target of zero stays zero. `bonus` is added to what was lost in each column.
    """
    counts = np.floor(targets + _NOISE).astype(np.int64)
    lost = np.where(targets > 0, targets - counts + bonus, -np.inf)
    order = np.argsort(-lost, axis=1, kind="stable")
    missing = totals - counts.sum(axis=1)
    raised = np.zeros_like(counts)
    np.put_along_axis(raised, order, np.arange(counts.shape[1]) < missing[:, None], axis=1)
    counts += raised
    return counts


def rescale_shares(
    shares: Float64[np.ndarray, "n k"],
    sizes: Int64[np.ndarray, " n"],
    capacity: Shaped[np.ndarray, " k"],
    allowed: Bool[np.ndarray, "n k"],
) -> Float64[np.ndarray, "n k"]:
    """Class shares near `shares` for which the column sums of `sizes · shares` stay within `capacity`.

    Where nothing is overdrawn the shares come back untouched. Rows go on summing to one and stay zero outside
    `allowed`. If there is no such matrix, or it is not reached in time, some columns stay overdrawn.
    """
    amounts = shares * sizes[:, None]
    if (amounts.sum(axis=0) <= capacity + _SLACK).all():
        return shares
    amounts = np.where(allowed, np.maximum(amounts, _TINY_SHARE), 0.0)
    for _ in range(_MAX_SWEEPS):
        amounts *= (sizes / amounts.sum(axis=1))[:, None]
        drawn = amounts.sum(axis=0)
        if (drawn <= capacity + _SLACK).all():
            break
        # A class that holds nothing keeps a trace, so that no row can lose its whole mass.
        amounts *= np.minimum(1.0, np.maximum(capacity, _TINY_SHARE) / np.maximum(drawn, _TINY_SHARE))
    amounts /= amounts.sum(axis=1, keepdims=True)
    return amounts


def round_counts(
    shares: Float64[np.ndarray, "n k"],
    sizes: Int64[np.ndarray, " n"],
    capacity: Int64[np.ndarray, " k"],
    allowed: Bool[np.ndarray, "n k"],
) -> Int64[np.ndarray, "n k"] | None:
    """Counts with row sums exactly `sizes`, column sums at most `capacity` and nothing outside `allowed`.

    Each count is its target `sizes · shares` rounded by largest remainder where the capacity allows that. None if
    no such counts exist.
    """
    targets = shares * sizes[:, None]
    counts = largest_remainder(targets, sizes)
    if (counts.sum(axis=0) > capacity).any():
        counts = _round_carrying(targets, sizes)
    while True:
        excess = counts.sum(axis=0) - capacity
        if (excess <= 0).all():
            return counts
        path = _find_path(counts, allowed, excess)
        if path is None:
            return None
        _move_along(path, counts, counts - targets, excess, allowed)


def _round_carrying(targets: Float64[np.ndarray, "n k"], sizes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n k"]:
    """Largest remainder client by client, with what rounding has taken from a class so far added to what it loses.

    Column sums thus stay within a sample or so of the targets', and every count next to its own target.
    """
    counts = np.empty(targets.shape, dtype=np.int64)
    carried = np.zeros(targets.shape[1])
    for client, target in enumerate(targets):
        counts[client] = largest_remainder(target[None], sizes[client : client + 1], carried)[0]
        carried += target - counts[client]
    return counts


def _find_path(counts: Counts, allowed: NDArray[np.bool_], excess: Counts) -> list[int] | None:
    """Shortest chain of classes from an overdrawn one to one that is not full; some client can move along each link."""
    links = ((counts > 0).T.astype(np.float32) @ allowed.astype(np.float32)) > 0
    start = int(np.argmax(excess))
    came_from = {start: start}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        if excess[here] < 0:
            path = [here]
            while path[-1] != start:
                path.append(came_from[path[-1]])
            return path[::-1]
        for neighbour in np.flatnonzero(links[here]):
            if int(neighbour) not in came_from:
                came_from[int(neighbour)] = here
                queue.append(int(neighbour))
    return None


def _move_along(path: list[int], counts: Counts, deviation: Shares, excess: Counts, allowed: NDArray[np.bool_]) -> None:
    """Move samples one link on for each link of the path, at the client whom it brings nearest to its target."""
    links = list(pairwise(path))
    gains = [np.where((counts[:, a] > 0) & allowed[:, b], deviation[:, a] - deviation[:, b], -np.inf) for a, b in links]
    clients = [int(np.argmax(gain)) for gain in gains]
    # Half the gap levels a client's two deviations; at least one sample moves, so that the search ends.
    level = min(gain[client] / 2 for gain, client in zip(gains, clients, strict=True))
    held = min(counts[client, a] for client, (a, _) in zip(clients, links, strict=True))
    amount = max(1, int(min(level, held, excess[path[0]], -excess[path[-1]])))
    for client, (a, b) in zip(clients, links, strict=True):
        counts[client, a] -= amount
        counts[client, b] += amount
