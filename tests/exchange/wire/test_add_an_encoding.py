"""The encoding that docs/add-an-encoding.md adds, through a whole average: values, bytes, and damage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fedpurin.config import ExchangeConfig
from fedpurin.exchange import Exchange, Ledger, Processes, Update
from fedpurin.exchange.wire.costs import BLOCK_ENTRY_BYTES, HEADER_BYTES
from fedpurin.exchange.wire.header import DecodeError
from fedpurin.space import Layout

PAGE = Path(__file__).parents[3] / "docs" / "add-an-encoding.md"


def make_code() -> Any:
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0], names)
    return names["NearestOf255"]()


def test_the_page_s_encoding_carries_an_average() -> None:
    code, layout, ledger = make_code(), Layout.from_sizes([3]), Ledger()
    exchange = Exchange(ExchangeConfig(), layout, Processes(), ledger)
    exchange.begin_round(0, [0, 1])
    vectors = {0: torch.zeros(64), 1: torch.zeros(64)}
    vectors[0][:3] = torch.tensor([127.0, -1.2, 0.0])  # rounded to 127, −1, 0
    vectors[1][:3] = torch.tensor([-254.0, 3.0, 4.0])  # rounded to −254, 4, 4: levels are two apart
    updates = {client: Update(vector, code=code) for client, vector in vectors.items()}
    mean, _ = exchange.average_updates(updates, {0: 1.0, 1: 1.0}, code=code)
    assert mean[:3].tolist() == [-63.5, 1.5, 2.0]
    account = ledger.by_entry(0)
    assert account["up/values/codes"] == 2 * (4 + 3) == 2 * code.cost(3)
    assert account["up/values/header"] == 2 * HEADER_BYTES
    assert account.total() == 2 * (HEADER_BYTES + BLOCK_ENTRY_BYTES + code.cost(3))


def test_bytes_that_it_did_not_write() -> None:
    with pytest.raises(DecodeError, match="6 bytes; 3 values take 7"):
        make_code().decode(torch.zeros(6, dtype=torch.uint8), 3)
