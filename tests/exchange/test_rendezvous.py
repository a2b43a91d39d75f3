"""On one node, nothing that a run opens can be reached from another machine."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from fedpurin.config import ConfigError
from fedpurin.exchange.rendezvous import (
    from_first,
    from_first_before_group,
    has_group,
    make_store,
    stay_on_loopback,
    taken_port_is_named,
)


def free_port() -> int:
    """A port with a free one after it: the rendezvous of a start takes the second."""
    for _ in range(100):
        with socket.socket() as probe, socket.socket() as after:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            try:
                after.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
    raise AssertionError("no two ports in a row are free")


def never() -> str:
    raise AssertionError("only the first process makes the name")


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
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(2, "eth0")])
    stay_on_loopback()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(PermissionError), taken_port_is_named(80):
        raise PermissionError(13, "not for you")
    with pytest.raises(RuntimeError, match=r"^broken$"), taken_port_is_named(80):
        raise RuntimeError("broken")


@pytest.mark.parametrize("nodes", ["1", "2"])
@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_the_first_process_names_and_the_others_read(
    launcher: str, nodes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there is a process group, as the environment of torchrun with a static rendezvous, or of srun, has it."""
    port = free_port()
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "SLURM_NNODES": nodes}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    if launcher == "torchrun":
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    else:
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert from_first_before_group(lambda: "runs/7", first=True) == "runs/7"
    assert from_first_before_group(never, first=False) == "runs/7"
    only_loopback = listening(port + 1) == {"0100007F"}
    assert only_loopback == (launcher == "srun" and nodes == "1")


def test_the_store_of_torchruns_agent_is_used_where_it_serves_one(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    agent = make_store("127.0.0.1", port, hosts=True, one_node=True, timeout=timedelta(seconds=30))
    agent.set("fedpurin/run_dir/2", "runs/of-restart-2")
    for name, value in {
        "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert from_first_before_group(never, first=False) == "runs/of-restart-2"
    assert from_first_before_group(lambda: "runs/8", first=True) == "runs/8"
    assert agent.get("fedpurin/run_dir/2") == b"runs/8"


def test_in_a_group_each_question_has_an_answer_of_its_own() -> None:
    assert not has_group()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert has_group()
        assert [from_first(lambda text=text: text) for text in ("one", "two")] == ["one", "two"]  # type: ignore[misc]
    finally:
        dist.destroy_process_group()
    assert not has_group()
