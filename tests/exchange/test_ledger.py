"""The ledger adds up, forgets single rounds but not their sum, and continues from a checkpoint."""

import json

import pytest

from fedpurin.exchange import Ledger


def make_ledger(rounds: int = 2) -> Ledger:
    ledger = Ledger()
    for round_number in range(rounds):
        ledger.set_baseline(round_number, [1, 4], dense_bytes=1000, mask_bytes=30)
        ledger.record(round_number, 1, "up", "mask", {"header": 40, "bitmap": 7, "dense": 0})
        ledger.record(round_number, 1, "down", "sums", {"header": 40, "float32": 100})
        ledger.record(round_number, 4, "up", "mask", {"header": 40})
    return ledger


def test_sums_of_a_round() -> None:
    ledger = make_ledger()
    assert ledger.round_totals(1) == {
        "bytes/up": 87,
        "bytes/down": 140,
        "bytes/up/mask": 87,
        "bytes/down/sums": 140,
        "bytes/up/mask/header": 80,
        "bytes/up/mask/bitmap": 7,
        "bytes/down/sums/header": 40,
        "bytes/down/sums/float32": 100,
        "bytes/dense_up": 2000,
        "bytes/dense_down": 2000,
        "bytes/fedcac_up": 2060,
        "bytes/fedcac_down": 2000,
    }
    rows = ledger.client_rows(1)
    assert list(rows) == [1, 4]
    assert (rows[1]["bytes/up"], rows[1]["bytes/down"], rows[4]["bytes/up"]) == (47, 140, 40)
    assert ledger.by_entry()["up/mask/header"] == 160
    assert ledger.cumulative()["bytes/up"] == 174


def test_old_rounds_remain_only_in_the_sum() -> None:
    ledger = make_ledger(rounds=9)
    assert ledger.cumulative()["bytes/up"] == 9 * 87
    with pytest.raises(ValueError, match="round 2 is not kept one by one; kept: 6, 7, 8"):
        ledger.round_totals(2)


def test_state_survives_json_and_is_dealt_to_ranks() -> None:
    state = json.loads(json.dumps(make_ledger().state_dict()))
    parts = []
    for clients in ([1], [4]):
        part = Ledger()
        part.load_state_dict(state, clients)
        parts.append(part.cumulative()["bytes/up"])
    assert parts == [94, 80]
    whole = Ledger()
    whole.load_state_dict(state)
    assert whole.cumulative() == make_ledger().cumulative()
    whole.record(2, 1, "up", "values", {"float32": 8})
    assert whole.cumulative()["bytes/up"] == 182
