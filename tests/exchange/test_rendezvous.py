"""On one node, nothing that a run opens can be reached from another machine."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest

from fedpurin.config import ConfigError
from fedpurin.exchange.rendezvous import make_store, stay_on_loopback


def listening(port: int) -> set[str]:
    """Addresses, as the kernel writes them, that this machine listens on at a port."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the kernel's table of sockets is Linux's")
def test_the_store_of_one_node_listens_on_loopback_only() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host = make_store("elsewhere.invalid", port, hosts=True, one_node=True, timeout=timedelta(seconds=10))
    assert listening(port) == {"0100007F"}
    guest = make_store("elsewhere.invalid", port, hosts=False, one_node=True, timeout=timedelta(seconds=10))
    host.set("key", "value")
    assert guest.get("key") == b"value"


@pytest.mark.parametrize("one_node", [True, False])
def test_a_port_that_another_program_uses_is_named(one_node: bool) -> None:
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"port {port} of .* is in use by another program: .*MASTER_PORT={port + 2}"
        ):
            make_store("localhost", port, hosts=True, one_node=one_node, timeout=timedelta(seconds=60))


def test_a_chosen_interface_stays_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    stay_on_loopback()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    stay_on_loopback()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
