"""Mask statistics against bits counted one by one, and what a run writes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks import MaskStatistics
from callbacks.mask_statistics import mask_shares, summarise_shares
from fedpurin.exchange import Exchange
from fedpurin.methods import FedAvg, Round
from fedpurin.space import Layout, pack_mask
from tests.methods.tiny import simulate

LAYOUT = Layout.from_sizes([3, 70, 64])


def packed(bits: list[int]) -> torch.Tensor:
    return pack_mask(LAYOUT.embed(torch.tensor(bits, dtype=torch.bool)))


bits = st.lists(st.integers(0, 1), min_size=LAYOUT.size, max_size=LAYOUT.size)


@settings(max_examples=50, deadline=None)
@given(bits, bits)
def test_shares_are_bits_counted_one_by_one(mask: list[int], previous: list[int]) -> None:
    density, moved = mask_shares(packed(mask), packed(previous), LAYOUT)
    for position, (start, stop) in enumerate([(0, 3), (3, 73), (73, 137), (0, 137)]):
        pairs = list(zip(mask[start:stop], previous[start:stop], strict=True))
        both, either = sum(a and b for a, b in pairs), sum(a or b for a, b in pairs)
        assert density[position] == sum(mask[start:stop]) / (stop - start)
        assert moved[position] == pytest.approx(1 - both / either if either else float("nan"), nan_ok=True)


def test_without_a_previous_mask_nothing_has_moved() -> None:
    density, moved = mask_shares(packed([1] * LAYOUT.size), None, LAYOUT)
    np.testing.assert_array_equal(density, [1, 1, 1, 1])
    assert np.isnan(moved).all()


def test_means_leave_out_what_is_undefined() -> None:
    nan = float("nan")
    line = summarise_shares(
        {
            3: (np.array([0.5, 1.0, 0.75]), np.array([nan, 0.5, 0.5])),
            1: (np.array([0.0, 0.5, 0.25]), np.array([nan, nan, 0.1])),
        }
    )
    assert line == {
        "clients": 2,
        "density": [0.25, 0.75], "density/all": 0.5,
        "moved": [None, 0.5], "moved/all": 0.3,
    }  # fmt: skip
    assert summarise_shares({}) == {"clients": 0}


def run(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    simulate(folder, *overrides)
    path = folder / "masks.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_writes_a_line_a_round(tmp_path: Path) -> None:
    header, *lines = run(tmp_path, "method=fedpurin", "trainer.rounds=4")
    assert header["tensors"] == ["net.0.weight", "net.0.bias", "net.3.weight", "net.3.bias"]
    assert (header["sizes"], header["overlap"], header["horizon"]) == ([30, 5, 15, 3], "published", 100)
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    assert lines[0]["moved/all"] is None
    assert 0 <= lines[1]["moved/all"] <= 1
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for line, record in zip(lines, records, strict=True):
        assert line["density/all"] == pytest.approx(record["mask/density"], abs=1e-5)
    assert [line["round"] for line in lines if "overlap" in line] == [0, 1, 3]  # first, half, horizon and last
    for line, record in ((lines[number], records[number]) for number in (0, 1, 3)):
        partners = [len(group) - 1 for group in line["collaborators"].values()]
        assert sum(partners) / len(partners) == record["collaboration/partners"]


class MaskedAverage(FedAvg):
    """Shares masks and averages everything: no rule of collaboration, and a β that is a horizon of nothing."""

    needs_masks: ClassVar[bool] = True
    beta = 0.5

    def communicate(self, this_round: Round, exchange: Exchange) -> dict[str, float]:
        exchange.share_masks(this_round.masks)
        return super().communicate(this_round, exchange)


def test_what_a_method_says_of_its_collaboration_is_written_not_what_its_attributes_are_called(tmp_path: Path) -> None:
    header, *lines = run(tmp_path, "method=fedavg", f"method._target_={__name__}.MaskedAverage", "trainer.rounds=4")
    assert (header["overlap"], header["horizon"]) == ("published", None)
    assert [line["round"] for line in lines if "overlap" in line] == [0, 1, 3]
    assert all("collaborators" not in line for line in lines)
    header, *_ = run(tmp_path / "fedcac", "method=fedcac", "method.beta=3", "trainer.rounds=1")
    assert (header["overlap"], header["horizon"]) == ("published", 3)


def test_methods_without_masks_write_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "method=fedavg") == []


def test_every_k_rounds_and_few_clients(tmp_path: Path) -> None:
    options = ["+callbacks.mask_statistics.every=2", "+callbacks.mask_statistics.max_clients=3"]
    _, *lines = run(tmp_path, "method=fedpurin", "trainer.rounds=4", *options)
    shown = [line for line in lines if "overlap" in line]
    assert [(line["round"], line["ids"]) for line in shown] == [(0, [0, 1, 2]), (2, [0, 1, 2])]
    assert all("collaborators" not in line for line in shown)
    assert all(line["overlap"][0][0] is None for line in shown)


@pytest.mark.parametrize("options", [{"every": 0}, {"max_clients": 1}])
def test_impossible_options(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="are not possible: at least 1 and at least 2"):
        MaskStatistics(**options)
