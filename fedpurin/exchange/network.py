"""A link model: what the ledger's bytes cost in seconds, if every client had such a link.

Owns: each client's link, the simulated seconds of a round, the time to a target accuracy. Does not own: bytes (the
ledger), the time that training takes (not part of it), the simulator's own speed.

A round is a sequence of one-way trips, in the order of PHASES; a client takes part in a trip when it has bytes in
that phase. A trip of b bytes takes latency + 8·b / bandwidth. The server needs every client's message before it can
answer (it compares all masks, it sums over clients), so a trip lasts as long as its slowest client's, and a round as
long as its trips together. `exchange: on_demand` makes four trips where `direct` makes two. Clients do not share
bandwidth, and the server's own link is not modelled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedpurin.config import ConfigError, DistributionConfig, NetworkConfig
from fedpurin.seeding import numpy_generator

Trip = tuple[tuple[str, str], ...]
TRIPS: tuple[Trip, ...] = (
    (("up", "mask"),),
    (("down", "request"),),
    (("up", "values"), ("up", "dense"), ("up", "peers")),
    (("down", "values"), ("down", "sums"), ("down", "dense"), ("down", "peers")),
)
"""Direction and phase of what travels together. Under `direct` and dense exchange the mask goes with the values."""


@dataclass(frozen=True, slots=True)
class Link:
    """One client's link: 10⁶ bits a second each way, milliseconds one way."""

    up_mbps: float
    down_mbps: float
    latency_ms: float

    def seconds(self, direction: str, num_bytes: int) -> float:
        """Time of one message."""
        mbps = self.up_mbps if direction == "up" else self.down_mbps
        return self.latency_ms / 1000 + 8 * num_bytes / (mbps * 1e6)


def draw_links(config: NetworkConfig, num_clients: int, seed: int) -> list[Link]:
    """Every client's link: the same for a seed, whatever the number of ranks or of other clients.

    Raises:
        ConfigError: a bandwidth of zero, or bounds in the wrong order.
    """
    return [
        Link(
            up_mbps=_draw("up_mbps", config.up_mbps, client, seed, positive=True),
            down_mbps=_draw("down_mbps", config.down_mbps, client, seed, positive=True),
            latency_ms=_draw("latency_ms", config.latency_ms, client, seed, positive=False),
        )
        for client in range(num_clients)
    ]


def _draw(name: str, value: float | DistributionConfig, client: int, seed: int, *, positive: bool) -> float:
    if isinstance(value, DistributionConfig):
        generator = numpy_generator(seed, f"network/{name}", client=client)
        if value.name == "uniform":
            if value.high < value.low:
                raise ConfigError(f"network.{name}.high={value.high} is below network.{name}.low={value.low}")
            drawn, source = float(generator.uniform(value.low, value.high)), f"network.{name}.low={value.low}"
        else:
            drawn = value.median * math.exp(value.sigma * float(generator.standard_normal()))
            source = f"network.{name}.median={value.median}"
    else:
        drawn, source = value, f"network.{name}={value}"
    if positive and drawn <= 0:
        raise ConfigError(f"{source} is not possible: a bandwidth must be above zero")
    return drawn


def round_seconds(rows: Mapping[int, Mapping[str, int]], links: Sequence[Link]) -> float:
    """Simulated seconds of one round, from the ledger's `client_rows` of all its participants."""
    trips = _trips(rows)
    return math.fsum(
        max((_seconds(trip, row, links[client]) for client, row in rows.items()), default=0.0) for trip in trips
    )


def client_seconds(rows: Mapping[int, Mapping[str, int]], links: Sequence[Link]) -> dict[int, float]:
    """What each participant's own messages take, without waiting for others."""
    trips = _trips(rows)
    return {client: math.fsum(_seconds(trip, row, links[client]) for trip in trips) for client, row in rows.items()}


def _trips(rows: Mapping[int, Mapping[str, int]]) -> Sequence[Trip]:
    """A mask that opens a longer message (`direct`) or goes with one (FedCAC) travels with it: no request follows it."""
    if any(row.get("bytes/down/request") for row in rows.values()):
        return TRIPS
    return (TRIPS[0] + TRIPS[2], TRIPS[3])


def _seconds(trip: Trip, row: Mapping[str, int], link: Link) -> float:
    num_bytes = sum(row.get(f"bytes/{direction}/{phase}", 0) for direction, phase in trip)
    return link.seconds(trip[0][0], num_bytes) if num_bytes else 0.0


def seconds_to_accuracy(seconds: Sequence[float], accuracies: Sequence[float | None], target: float) -> float | None:
    """Simulated seconds until a round's accuracy first reaches `target`; None if it never does.

    `seconds[t]` is round t's, not cumulative; `accuracies[t]` is None where the round was not evaluated.
    """
    total = 0.0
    for taken, accuracy in zip(seconds, accuracies, strict=True):
        total += taken
        if accuracy is not None and accuracy >= target:
            return total
    return None
