"""Simulated seconds, on numbers worked out by hand."""

import pytest

from fedpurin.config import ConfigError, DistributionConfig, NetworkConfig
from fedpurin.exchange.network import Link, client_seconds, draw_links, round_seconds, seconds_to_accuracy

LINKS = [Link(up_mbps=8, down_mbps=80, latency_ms=10), Link(up_mbps=4, down_mbps=40, latency_ms=100)]


def test_a_link() -> None:
    assert LINKS[0].seconds("up", 1_000_000) == pytest.approx(1.01)
    assert LINKS[0].seconds("down", 1_000_000) == pytest.approx(0.11)


def test_a_round_waits_for_the_slowest_client_on_every_trip() -> None:
    rows = {
        0: {"bytes/up/mask": 100_000, "bytes/down/request": 10_000, "bytes/up/values": 1_000_000, "bytes/down/sums": 0},
        1: {"bytes/up/mask": 10_000},
    }
    assert client_seconds(rows, LINKS)[0] == pytest.approx(0.11 + 0.011 + 1.01)
    assert round_seconds(rows, LINKS) == pytest.approx(max(0.11, 0.12) + 0.011 + 1.01)


def test_direct_and_dense_exchange_make_two_trips() -> None:
    direct = {0: {"bytes/up/mask": 100_000, "bytes/up/values": 900_000, "bytes/down/values": 1_000_000}}
    assert round_seconds(direct, LINKS) == pytest.approx(1.01 + 0.11)
    dense = {0: {"bytes/up/mask": 100_000, "bytes/up/dense": 900_000, "bytes/down/dense": 1_000_000}}
    assert round_seconds(dense, LINKS) == pytest.approx(1.01 + 0.11)


def test_nothing_sent_takes_no_time() -> None:
    assert round_seconds({}, LINKS) == 0
    assert round_seconds({0: {"bytes/up/mask": 0}}, LINKS) == 0


def test_links_are_drawn_per_client_and_do_not_depend_on_the_others() -> None:
    config = NetworkConfig(
        up_mbps=DistributionConfig(name="lognormal", median=10.0, sigma=0.5),
        down_mbps=DistributionConfig(name="uniform", low=20.0, high=50.0),
        latency_ms=7.0,
    )
    links = draw_links(config, 200, seed=1)
    assert links[:5] == draw_links(config, 5, seed=1)
    assert links != draw_links(config, 200, seed=2)
    assert len({link.up_mbps for link in links}) == 200
    assert sorted(link.up_mbps for link in links)[100] == pytest.approx(10, rel=0.2)
    assert all(20 <= link.down_mbps <= 50 and link.latency_ms == 7 for link in links)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (NetworkConfig(up_mbps=0.0), "network.up_mbps=0.0 is not possible: a bandwidth must be above zero"),
        (
            NetworkConfig(down_mbps=DistributionConfig(name="uniform", low=5.0, high=1.0)),
            "network.down_mbps.high=1.0 is below network.down_mbps.low=5.0",
        ),
        (NetworkConfig(up_mbps=DistributionConfig(name="lognormal")), "network.up_mbps.median=0.0 is not possible"),
    ],
)
def test_impossible_links(config: NetworkConfig, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        draw_links(config, 3, seed=0)


def test_time_to_accuracy() -> None:
    assert seconds_to_accuracy([1.0, 2.0, 4.0], [0.1, None, 0.6], 0.5) == 7.0
    assert seconds_to_accuracy([1.0, 2.0], [0.1, 0.2], 0.5) is None
