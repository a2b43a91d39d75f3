"""A run folder that nobody chose: free, and named by the first process only."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpurin.run import folder


def test_a_taken_name_gives_the_next_free_one(tmp_path: Path) -> None:
    taken = [folder.claim(tmp_path / "2026" / "10-00-00").name for _ in range(3)]
    assert taken == ["10-00-00", "10-00-00-2", "10-00-00-3"]


def test_a_rank_that_fabric_starts_takes_the_first_one_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(folder.HANDED, "")  # put back afterwards
    first = folder.settle(tmp_path / "10-00-00")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert folder.settle(tmp_path / "10-00-01") == first == tmp_path / "10-00-00"
    assert [path.name for path in tmp_path.iterdir()] == ["10-00-00"]
