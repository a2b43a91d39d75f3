"""A run folder that nobody chose: free, and named by the first process only."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpurin.config import ConfigError
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


def test_a_mistake_takes_away_what_it_made_and_nothing_else(tmp_path: Path) -> None:
    old, new, begun = tmp_path / "old", tmp_path / "a" / "b" / "new", tmp_path / "begun"
    old.mkdir()
    for path in (old, new, begun):
        folder.note(path)
        path.mkdir(parents=True, exist_ok=True)
        (path / "fedpurin.log").touch()
    (begun / "metrics.jsonl").write_text("{}\n")
    for path in (old, new, begun):
        folder.withdraw(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "old"]


def test_a_sweep_s_member_keeps_the_folder_that_tells_its_refusal(tmp_path: Path) -> None:
    (tmp_path / "overrides.txt").write_text("seed=x\n")
    folder.note(tmp_path / "1")
    (tmp_path / "1").mkdir()
    folder.withdraw(tmp_path / "1")
    assert (tmp_path / "1").is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "outputs").touch()
    with pytest.raises(ConfigError, match="outputs cannot be made: File exists"):
        folder.claim(tmp_path / "outputs" / "10-00-00")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("hydra.run.dir=~/runs/a", "hydra.run.dir=/homes/ann/runs/a"),
        ("data.root='~/my data'", "data.root='/homes/ann/my data'"),
        ("data.root=~/a,~/b", "data.root=/homes/ann/a,/homes/ann/b"),
        ("+partition.file=~", "+partition.file=/homes/ann"),
        ("--output=~/models", "--output=/homes/ann/models"),
        ("~callbacks.progress", "~callbacks.progress"),
        ("name=a~b", "name=a~b"),
    ],
)
def test_a_tilde_is_the_home_folder_in_every_option(given: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/homes/ann")
    assert folder.expand_home([given]) == [meant]
