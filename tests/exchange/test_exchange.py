"""One round of exchange against METHOD's loops, and the ledger against messages that are encoded whole, from outside."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from fedpurin.config import ExchangeConfig
from fedpurin.exchange import Exchange, Ledger, Processes, sparse, sums
from fedpurin.exchange.wire.costs import dense_bytes
from fedpurin.exchange.wire.header import Kind
from fedpurin.exchange.wire.message import Message, encode
from fedpurin.methods.overlap import collaborators, overlap_matrix
from fedpurin.space import pack_mask, unpack_mask
from tests.exchange import naive
from tests.exchange.naive import Clients

SMALL_BUCKET = 0.001  # MiB: one block at a time
SWITCHES = list(product(("published", "dice"), ("collaborators", "contributors"), ("local", "global")))


def one_round(
    clients: Clients,
    *,
    overlap: str = "dice",
    normalise: str = "collaborators",
    fill: str = "local",
    round_number: int = 3,
    beta: float = 10,
    **config: object,
) -> tuple[dict[int, Tensor], Ledger]:
    """What a FedPURIN round makes of the clients' vectors."""
    ledger = Ledger()
    exchange = Exchange(ExchangeConfig(**config), clients.layout, Processes(), ledger)  # type: ignore[arg-type]
    exchange.begin_round(round_number, clients.ids)
    masks = exchange.share_masks(clients.masks)
    found = overlap_matrix([masks[i] for i in clients.ids], overlap)  # type: ignore[arg-type]
    vectors = clients.copies()
    groups = collaborators(found, clients.ids, round_number, beta)
    exchange.combine(
        vectors,
        masks,
        groups,
        normalise=normalise,
        fill=fill,
        weights=clients.samples,  # type: ignore[arg-type]
    )
    return vectors, ledger


def federation(**changes: object) -> Clients:
    return Clients.make([40, 7, 130, 1], [0, 2, 3, 7, 8], [0.5, 0.3, 0.6, 0.05, 0.9], **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("overlap", "normalise", "fill"), SWITCHES)
@pytest.mark.parametrize("round_number", [0, 9, 10, 50])
def test_merged_values_equal_the_naive_twin(overlap: str, normalise: str, fill: str, round_number: int) -> None:
    """Before, at and past the horizon of 10 rounds, both modes, in buckets of one block: the very bits."""
    clients = federation(seed=round_number)
    bits = clients.bits()
    groups = naive.collaborators(bits, overlap, round_number, 10)
    expected = naive.merge(clients.values(), bits, groups, normalise, fill, clients.samples)
    for mode, bucket in product(("direct", "on_demand"), (SMALL_BUCKET, 64.0)):
        vectors, _ = one_round(
            clients,
            overlap=overlap,
            normalise=normalise,
            fill=fill,
            round_number=round_number,
            mode=mode,
            bucket_mib=bucket,
        )
        for i in clients.ids:
            result, length = vectors[i].numpy(), clients.layout.length
            parameters = clients.layout.parameter_mask().numpy()
            np.testing.assert_array_equal(result[:length][parameters], np.array(expected[i])[parameters])
            np.testing.assert_array_equal(result[length:], clients.vectors[i].numpy()[length:])
            assert not result[:length][~parameters].any()


@pytest.mark.parametrize(("overlap", "normalise", "fill"), SWITCHES)
def test_same_bits_and_bytes_in_any_mode_and_bucket(overlap: str, normalise: str, fill: str) -> None:
    """Larger, with blocks that take every encoding; the ledger does not know about buckets."""
    clients = Clients.make([40_000, 5, 16_384, 3000], [1, 2, 4, 5, 9, 11], [0.5, 0.45, 0.02, 0.9, 0.0, 0.3])
    reference, _ = one_round(clients, overlap=overlap, normalise=normalise, fill=fill, mode="direct")
    for mode in ("direct", "on_demand"):
        accounts = []
        for bucket in (SMALL_BUCKET, 1.0, 64.0):
            vectors, ledger = one_round(
                clients, overlap=overlap, normalise=normalise, fill=fill, mode=mode, bucket_mib=bucket
            )
            accounts.append(ledger.by_entry())
            for i in clients.ids:
                assert torch.equal(vectors[i], reference[i])
        assert accounts[0] == accounts[1] == accounts[2]


@pytest.mark.parametrize(("overlap", "normalise", "fill"), SWITCHES)
@pytest.mark.parametrize("mode", ["direct", "on_demand"])
def test_torch_operations_make_the_same_models(
    overlap: str, normalise: str, fill: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs on a GPU, run on the CPU."""
    clients = Clients.make([20_000, 5, 700], [1, 2, 4, 5, 9], [0.5, 0.45, 0.02, 0.9, 0.0])
    switches = {"overlap": overlap, "normalise": normalise, "fill": fill, "mode": mode, "bucket_mib": 0.5}
    compiled, bytes_compiled = one_round(clients, **switches)  # type: ignore[arg-type]
    monkeypatch.setattr(sparse, "add_up", sums.add_up_in_torch)
    generic, bytes_generic = one_round(clients, **switches)  # type: ignore[arg-type]
    for i in clients.ids:
        assert torch.equal(compiled[i], generic[i])
    assert bytes_compiled.by_entry() == bytes_generic.by_entry()


def positions(clients: Clients) -> dict[int, Tensor]:
    return {i: unpack_mask(mask) for i, mask in clients.masks.items()}


def any_of(masks: Mapping[int, Tensor], ids: list[int], like: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(like), *(masks[i] for i in ids)]).any(0)


@pytest.mark.parametrize("overlap", ["published", "dice"])
@pytest.mark.parametrize("normalise", ["collaborators", "contributors"])
def test_ledger_of_on_demand_adds_up_from_outside(overlap: str, normalise: str) -> None:
    clients = Clients.make([40_000, 5, 3000], [1, 2, 4, 5, 9], [0.5, 0.45, 0.02, 0.9, 0.3])
    layout, masks = clients.layout, positions(clients)
    groups = naive.collaborators(clients.bits(), overlap, 3, 10)
    _, ledger = one_round(clients, overlap=overlap, normalise=normalise)
    for i in clients.ids:
        others = [j for j in groups[i] if j != i]
        users = [j for j in clients.ids if j != i and i in groups[j]]
        asked = masks[i] & any_of(masks, users, masks[i])
        useful = masks[i] & any_of(masks, others, masks[i])
        size = {"mask": encode(Message(Kind.MASK, i, 3, clients.masks[i]), layout).numel()}
        if users:
            request = Message(Kind.REQUEST, i, 3, pack_mask(asked))
            size["request"] = encode(request, layout, clients.masks[i]).numel()
            size["values"] = encode(Message(Kind.VALUES, i, 3, None, torch.zeros(int(asked.sum()))), layout).numel()
        if others:
            counts = None
            if normalise == "contributors":
                counts = torch.ones(int((useful & ~asked).sum()), dtype=torch.uint8)
            index = None if users == others else pack_mask(useful)
            sums = Message(Kind.SUMS, i, 3, index, torch.zeros(int(useful.sum())), len(groups[i]), counts)
            size["sums"] = encode(sums, layout, clients.masks[i]).numel()
        row = ledger.client_rows(3)[i]
        for direction, phase in (("up", "mask"), ("down", "request"), ("up", "values"), ("down", "sums")):
            assert row.get(f"bytes/{direction}/{phase}", 0) == size.get(phase, 0), phase
        assert row["bytes/up"] == size["mask"] + size.get("values", 0)


def test_ledger_of_direct_adds_up_from_outside() -> None:
    clients = Clients.make([40_000, 5, 3000], [1, 2, 4, 5, 9], [0.5, 0.45, 0.02, 0.9, 0.3])
    _, ledger = one_round(clients, mode="direct")
    for i in clients.ids:
        values = clients.vectors[i][: clients.layout.length][unpack_mask(clients.masks[i])]
        row = ledger.client_rows(3)[i]
        update = encode(Message(Kind.UPDATE, i, 3, clients.masks[i], values), clients.layout)
        assert row["bytes/up"] == update.numel()
        assert row["bytes/down"] == encode(Message(Kind.VALUES, i, 3, None, values), clients.layout).numel()


def test_on_demand_costs_less_and_nothing_but_masks_past_the_horizon() -> None:
    clients = federation()
    direct, demand = (one_round(clients, mode=mode)[1].round_totals(3) for mode in ("direct", "on_demand"))
    assert demand["bytes/up"] + demand["bytes/down"] < direct["bytes/up"] + direct["bytes/down"]
    closed = one_round(clients, round_number=50)[1].round_totals(50)
    assert closed["bytes/down"] == 0
    assert closed["bytes/up"] == closed["bytes/up/mask"]


def test_a_critical_zero_below_zero_loses_its_sign_in_every_mode() -> None:
    """0 + (−0) is +0: what the sum over no other collaborator makes of it, wherever it is computed."""
    clients = federation()
    for vector in clients.vectors.values():
        vector[:20] = -0.0
    results = [one_round(clients, mode=mode, round_number=50)[0] for mode in ("direct", "on_demand")]
    for i in clients.ids:
        assert torch.equal(results[0][i].view(torch.int32), results[1][i].view(torch.int32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("mode", ["direct", "on_demand"])
def test_16_bit_values_are_lossy_and_about_half_the_bytes(mode: str, dtype: str) -> None:
    clients = federation()
    exact, full = one_round(clients, mode=mode)
    rounded, half = one_round(clients, mode=mode, value_dtype=dtype)
    for i in clients.ids:
        torch.testing.assert_close(rounded[i], exact[i], rtol=0.05, atol=0.05)
    assert half.by_entry().total() < full.by_entry().total()
    assert half.round_totals(3)["bytes/dense_up"] == full.round_totals(3)["bytes/dense_up"]


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("mode", ["direct", "on_demand"])
def test_8_bit_values_take_a_byte_each(mode: str, dtype: str) -> None:
    clients = federation()
    exact, full = one_round(clients, mode=mode)
    rounded, small = one_round(clients, mode=mode, value_dtype=dtype)
    for i in clients.ids:
        torch.testing.assert_close(rounded[i], exact[i], rtol=0.3, atol=0.3)
    for name in ("up/values", "down/values" if mode == "direct" else "down/sums"):
        assert small.by_entry()[f"{name}/{dtype}"] * 4 == full.by_entry()[f"{name}/float32"] > 0


@pytest.mark.parametrize("dtype", ["float16", "float8_e4m3fn", "float8_e5m2"])
def test_value_too_large_for_few_bits(dtype: str) -> None:
    """Also where torch would round it to the largest number there is: float8_e4m3fn has no infinity."""
    clients = federation()
    for vector in clients.vectors.values():
        vector *= 1e6
    with pytest.raises(ValueError, match=rf"exchange.value_dtype={dtype}: a value of .* cannot be sent"):
        one_round(clients, mode="direct", value_dtype=dtype)


def make_exchange(clients: Clients, **config: object) -> Exchange:
    exchange = Exchange(ExchangeConfig(**config), clients.layout, Processes(), Ledger())  # type: ignore[arg-type]
    exchange.begin_round(0, clients.ids)
    return exchange


@pytest.mark.parametrize("bucket", [SMALL_BUCKET, 64.0])
def test_average_in_ascending_order(bucket: float) -> None:
    clients = federation()
    exchange, vectors = make_exchange(clients, bucket_mib=bucket), clients.copies()
    mean = exchange.average(vectors, clients.samples)
    expected, total = torch.zeros(clients.layout.length), sum(clients.samples.values())
    for i in clients.ids:
        expected += clients.vectors[i][: clients.layout.length] * torch.tensor(clients.samples[i] / total)
    assert torch.equal(mean, expected)
    for i in clients.ids:
        assert torch.equal(vectors[i][: clients.layout.length], mean)
    dense = dense_bytes(clients.layout, 4)
    totals = exchange.ledger.round_totals(0)
    assert totals["bytes/up"] == totals["bytes/down"] == totals["bytes/dense_up"] == 5 * dense


def test_average_without_delivery_leaves_the_clients_alone() -> None:
    clients = federation()
    exchange, vectors = make_exchange(clients), clients.copies()
    exchange.average(vectors, clients.samples, deliver=False)
    assert all(torch.equal(vectors[i], clients.vectors[i]) for i in clients.ids)
    assert exchange.ledger.round_totals(0)["bytes/down"] == 0


@pytest.mark.parametrize("mode", ["direct", "on_demand"])
def test_fedcac(mode: str) -> None:
    clients = federation()
    exchange, vectors = make_exchange(clients, mode=mode), clients.copies()
    masks = exchange.share_masks(clients.masks)
    groups = naive.collaborators(clients.bits(), "published", 0, 10)
    exchange.combine_dense(vectors, masks, groups, weights=clients.samples)
    total, length = sum(clients.samples.values()), clients.layout.length
    shared = {i: clients.vectors[i][:length] for i in clients.ids}
    mean = sum(shared[i] * (clients.samples[i] / total) for i in clients.ids)
    for i in clients.ids:
        own = sum(shared[j] for j in groups[i]) / len(groups[i])
        torch.testing.assert_close(vectors[i][:length], torch.where(unpack_mask(masks[i]), own, mean))
    totals = exchange.ledger.round_totals(0)
    packed = sum(encode(Message(Kind.MASK, i, 0, clients.masks[i]), clients.layout).numel() for i in clients.ids)
    assert totals["bytes/up"] == 5 * dense_bytes(clients.layout, 4) + packed <= totals["bytes/fedcac_up"]
    assert totals["bytes/down"] == totals["bytes/fedcac_down"]


def test_download_counts_and_rounds() -> None:
    clients = federation()
    exchange = make_exchange(clients, value_dtype="float16")
    received = exchange.download(clients.vectors[0], [1, 4])
    assert torch.equal(received, clients.vectors[0][: clients.layout.length].half().float())
    assert exchange.ledger.round_totals(0)["bytes/down"] == 2 * dense_bytes(clients.layout, 2)


@pytest.mark.parametrize(("mode", "up", "down"), [("direct", 52 + 31 * 4, 40 + 31 * 4), ("on_demand", 52, 0)])
def test_a_round_of_one_client_leaves_its_model_alone(mode: str, up: int, down: int) -> None:
    """Its mask goes up, and in direct mode its 31 critical values go there and back."""
    clients = Clients.make([64], [5], [0.5])
    vectors, ledger = one_round(clients, mode=mode)
    assert torch.equal(vectors[5], clients.vectors[5])
    totals = ledger.round_totals(3)
    assert (totals["bytes/up"], totals["bytes/down"]) == (up, down)


def test_a_layout_without_parameters_exchanges_nothing() -> None:
    clients = Clients.make([], [2, 5], [0.5, 0.5])
    assert (clients.layout.length, clients.layout.size) == (0, 0)
    exchange = make_exchange(clients)
    assert exchange.average(clients.copies(), clients.samples).numel() == 0
    received = exchange.download(torch.empty(0), clients.ids)
    assert received.numel() == 0


def test_misuse_is_named() -> None:
    clients = federation()
    exchange = make_exchange(clients, mode="direct")
    groups = {i: (i,) for i in clients.ids}
    with pytest.raises(ValueError, match="not in ascending order"):
        exchange.begin_round(0, [3, 1])
    with pytest.raises(ValueError, match="combine completes the messages that share_masks opened"):
        exchange.combine(clients.copies(), clients.masks, groups)
    with pytest.raises(ValueError, match="fill=global needs"):
        exchange.combine(clients.copies(), clients.masks, groups, fill="global")


def test_only_the_last_call_of_a_round_sets_what_it_is_compared_with() -> None:
    clients = federation()
    exchange = make_exchange(clients)
    exchange.begin_round(0, clients.ids[:2])
    assert exchange.ledger.round_totals(0)["bytes/dense_up"] == 2 * dense_bytes(clients.layout, 4)
    assert exchange.ledger.cumulative()["bytes/dense_up"] == 2 * dense_bytes(clients.layout, 4)
