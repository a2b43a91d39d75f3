"""Idle clients elsewhere: the same bits, the files' space, and what is refused before training."""

from __future__ import annotations

import mmap
import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedpurin.config import ClientsConfig, ConfigError
from fedpurin.federation import Federation
from fedpurin.local import store
from fedpurin.local.client import Client
from fedpurin.local.store import DeviceStore, DiskStore, HostStore, RangeFile, make_store, remark
from fedpurin.run.build import build
from tests.methods.tiny import TEST, TRAIN, Tiny, composed

CPU = torch.device("cpu")


def client(value: float = 1.0, length: int = 20_000, client_id: int = 7) -> Client:
    none = torch.empty(0, dtype=torch.int64)
    return Client(client_id, torch.full((length,), value), {}, none, none)


def run(run_dir: Path, method: str, kind: str, rounds: int = 3, *, resume: str = "never") -> Federation:
    config = composed(method)
    trainer = replace(config.trainer, clients_per_round=2, rounds=rounds, executor="serial")
    checkpoint = replace(config.checkpoint, every=1)
    config = replace(
        config, trainer=trainer, checkpoint=checkpoint, clients=ClientsConfig(store=kind), resume=resume  # type: ignore[arg-type]
    )  # fmt: skip
    federation = build(config, run_dir, module=Tiny(), train=TRAIN, test=TEST)
    federation.run()
    return federation


@pytest.mark.parametrize("method", ["fedpurin", "ditto", "fedavg"])
def test_clients_on_disk_learn_the_same_bits(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SMALL_BYTES", 0)
    kept, mapped = run(tmp_path / "device", method, "device"), run(tmp_path / "disk", method, "disk")
    assert isinstance(mapped.store, DiskStore)
    for client_id, one in kept.clients.items():
        other = mapped.clients[client_id]
        assert torch.equal(one.vector, other.vector)
        assert other.vector.data_ptr() == mapped.store._places[client_id, "vector"][1].data_ptr()
        assert one.extra.keys() == other.extra.keys()
        assert all(torch.equal(vector, other.extra[name]) for name, vector in one.extra.items())


def test_a_run_may_go_on_with_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SMALL_BYTES", 0)
    whole = run(tmp_path / "whole", "ditto", "device")
    run(tmp_path / "parts", "ditto", "device", rounds=1)
    resumed = run(tmp_path / "parts", "ditto", "disk", resume="auto")
    assert resumed.first_round == 1
    assert all(torch.equal(one.vector, resumed.clients[client_id].vector) for client_id, one in whole.clients.items())
    assert {name for _, name in resumed.store._places} == {"vector", "global"}  # type: ignore[attr-defined]


def test_what_is_put_back_is_in_its_file_and_survives_that_its_pages_leave(tmp_path: Path) -> None:
    disk, one = DiskStore(CPU, tmp_path), client()
    disk.put_back([one])
    one.vector[3] = 5.0  # a client trains in its map
    one.extra["global"] = torch.full((20_000,), 2.0)
    one.extra["control"] = torch.zeros(4)
    disk.put_back([one])
    disk.prefetch([one])
    disk.fetch([one])
    assert one.vector[:5].tolist() == [1.0, 1.0, 1.0, 5.0, 1.0]
    assert one.extra["global"].data_ptr() == disk._places[7, "global"][1].data_ptr()
    assert set(disk._places) == {(7, "vector"), (7, "global")}  # the small one stays in memory
    assert list(tmp_path.iterdir()) == []  # nothing is left behind, however the process ends
    one.vector = torch.full((30_000,), 3.0)  # another size: another file
    disk.put_back([one])
    assert one.vector.shape == (30_000,)
    assert float(one.vector.sum()) == 90_000.0


@pytest.mark.parametrize("length", [8, 1_250_000])
def test_first_copies_lie_apart_and_leave_nothing_in_the_heap(length: int, tmp_path: Path) -> None:
    """What a client keeps besides comes to lie where a freed copy was: sixty of them once took 300 MB of the heap."""
    on_disk, start = DiskStore(CPU, tmp_path), torch.arange(float(length))
    before, clients, beside = _heap_mib(), {}, []
    for client_id in range(60):
        clients[client_id] = on_disk.first(client_id, start)
        beside.append(torch.zeros(20_000))
    assert _heap_mib() - before < 60
    clients[0].zero_()
    assert torch.equal(clients[59], torch.arange(float(length)))
    assert torch.equal(start, clients[59])


def _heap_mib() -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) / 1024


def test_many_clients_need_few_file_descriptors(tmp_path: Path) -> None:
    """A map of Python's keeps a descriptor; login shells allow 1,024 of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 8, hard))
    try:
        disk, many = DiskStore(CPU, tmp_path), [client(float(number), client_id=number) for number in range(300)]
        disk.put_back(many)
        disk.prefetch(many)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(disk._places) == 300
    assert [float(one.vector.sum()) for one in many] == [20_000.0 * number for number in range(300)]


def test_ranges_do_not_overlap_and_go_on_in_further_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = mmap.PAGESIZE
    monkeypatch.setattr(store, "MAP_BYTES", 4 * page)
    file, lengths = RangeFile(tmp_path), [page, 1, 2 * page, 2 * page - 8, 5 * page]
    taken = [file.take(length) for length in lengths]
    assert [(piece.start, piece.length) for piece in taken] == [
        (0, page), (page, page), (2 * page, 2 * page), (0, 2 * page), (0, 5 * page)
    ]  # fmt: skip
    assert len({id(piece.memory) for piece in taken}) == 3
    tensors = [piece.tensor(torch.empty(piece.length, dtype=torch.uint8)) for piece in taken]
    for number, tensor in enumerate(tensors):
        tensor.fill_(number)
    for piece in taken:
        piece.advise(mmap.MADV_DONTNEED)
    assert [tensor.unique().tolist() for tensor in tensors] == [[0], [1], [2], [3], [4]]


def test_a_range_that_is_given_back_is_used_again(tmp_path: Path) -> None:
    file = RangeFile(tmp_path)
    small, large, _ = file.take(5_000), file.take(50_000), file.take(5_000)
    file.give_back(large)
    file.give_back(small)
    assert file.take(8_000) is small  # the smallest that is large enough
    assert file.take(9_000) is large
    assert file.take(9_000).start == small.length + large.length + small.length


def test_a_store_that_has_no_place_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"clients.store=disk needs 1000.00 GB for 1000 clients and .* GB left"):
        make_store(ClientsConfig(store="disk", folder=str(tmp_path)), CPU, num_clients=1000, num_bytes=10**9)
    with pytest.raises(ConfigError, match=r"clients.folder=.*nowhere is not a folder"):
        make_store(ClientsConfig(store="disk", folder=str(tmp_path / "nowhere")), CPU, num_clients=1, num_bytes=8)


def test_options_without_effect_are_named() -> None:
    assert type(make_store(ClientsConfig(store="cpu"), CPU, num_clients=1, num_bytes=8)) is DeviceStore
    assert remark(ClientsConfig(), CPU) is None
    assert remark(ClientsConfig(store="cpu"), CPU) == "clients.store=cpu changes nothing on a CPU (disk does)"
    line = remark(ClientsConfig(folder="/x"), CPU)
    assert line == "clients.folder=/x has no effect: clients.store=device does not read it (disk does)"


@pytest.mark.skipif(not store._is_memory(Path("/dev/shm")), reason="/dev/shm is no tmpfs here")
def test_a_folder_in_memory_is_no_disk() -> None:
    line = remark(ClientsConfig(store="disk", folder="/dev/shm"), CPU)
    assert line == "clients.store=disk: /dev/shm lies in memory (tmpfs); name a folder of a disk with clients.folder"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["cpu", "disk"])
def test_idle_clients_of_a_gpu_lie_on_the_host(kind: str, tmp_path: Path) -> None:
    device, one = torch.device("cuda"), client()
    one.vector = one.vector.to(device)
    places = HostStore(device) if kind == "cpu" else DiskStore(device, tmp_path)
    places.put_back([one])
    assert one.vector.device.type == "cpu"
    places.fetch([one])
    assert one.vector.is_cuda
    assert float(one.vector.sum()) == 20_000.0


def test_a_store_on_the_host_is_for_another_device_than_the_cpu() -> None:
    elsewhere = torch.device("meta")  # a device that holds nothing: what comes there is gone, and seen to be there
    moved = make_store(ClientsConfig(store="cpu"), elsewhere, num_clients=1, num_bytes=80_000)
    assert type(moved) is HostStore
    assert type(make_store(ClientsConfig(store="cpu"), CPU, num_clients=1, num_bytes=80_000)) is DeviceStore
    one = client()
    one.extra["error"] = torch.ones(20_000)
    moved.put_back([one])
    assert (one.vector.device, one.extra["error"].device) == (CPU, CPU)
    moved.fetch([one])
    assert (one.vector.device, one.extra["error"].device) == (elsewhere, elsewhere)
