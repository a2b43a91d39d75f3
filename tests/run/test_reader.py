"""The one reader of run folders: whole files, and files that a kill or a writing process cut off."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from fedpurin.run import reader

ROOT = Path(__file__).parents[2]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_lines_leave_out_what_is_broken_and_the_later_of_two_rounds_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", '{"round": 1}\n{"rou\n{"round": 0}\n7\n{"round": 1, "a": 2}\n{"round": 3')
    lines = reader.read_lines(path)
    assert (lines.broken, lines.count) == ((2, 6), 6)
    assert lines.by_round() == {1: {"round": 1, "a": 2}, 0: {"round": 0}}
    assert reader.read_rounds(tmp_path) == [{"round": 0}, {"round": 1, "a": 2}]
    assert reader.count_rounds(tmp_path) == 5  # lines that ended
    assert reader.read_lines(tmp_path / "absent.jsonl") == reader.Lines((), (), 0)
    assert reader.count_rounds(tmp_path / "absent") == 0


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ('{"a": 1}\n{"b": 2}\n{"c": 3}\n', {"a": 1}, {"c": 3}),
        ('{"a": 1}\n', {"a": 1}, {"a": 1}),
        ('{"a": 1}\n{"b', {"a": 1}, {}),
        ("[1]\n", {}, {}),
        ("", {}, {}),
    ],
)
def test_both_ends_of_a_file_are_read_alone(tmp_path: Path, text: str, first: object, last: object) -> None:
    assert reader.read_ends(write(tmp_path / "masks.jsonl", text)) == (first, last)
    assert reader.read_ends(tmp_path / "absent") == ({}, {})


def test_a_table_keeps_cells_with_commas_and_newlines_and_drops_a_cut_row(tmp_path: Path) -> None:
    write(tmp_path / "clients.csv", 'round,client,note\r\n0,0,"a, b"\r\n0,1,"c\r\nd"\r\n0,2\r\n1,0,x\r\n1,1')
    table = reader.read_clients(tmp_path)
    assert table.is_cut
    assert [list(row) for row in table.rows] == [["0", "0", "a, b"], ["0", "1", "c\r\nd"], ["1", "0", "x"]]
    assert table.column("client") == ["0", "1", "0"]
    assert table.column("absent") == ["", "", ""]
    assert next(table.records()) == {"round": "0", "client": "0", "note": "a, b"}
    with pytest.raises(FileNotFoundError):
        reader.read_clients(tmp_path / "absent")


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"status": "fin', "\x00"])
def test_an_object_that_is_none_is_empty(tmp_path: Path, text: str) -> None:
    write(tmp_path / "summary.json", text)
    assert reader.read_summary(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "config.yaml is missing"),
        ("", "config.yaml is empty"),
        ("a: [1,", "config.yaml cannot be read: while parsing"),
        ("- 1\n", "config.yaml cannot be read: it is no mapping of options"),
        ("when: 2026-02-31\n", "config.yaml cannot be read: "),
        ("a: !!python/object:os.system {}\n", "config.yaml cannot be read: .*could not determine a constructor"),
    ],
)
def test_options_that_cannot_be_read_say_why(tmp_path: Path, text: str | None, why: str) -> None:
    if text is not None:
        write(tmp_path / "config.yaml", text)
    with pytest.raises(reader.Unreadable, match=why):
        reader.read_options(tmp_path)


def test_options_become_dotted(tmp_path: Path) -> None:
    write(tmp_path / "config.yaml", "seed: 3\nmethod:\n  beta: 1.0e-05\n  empty: {}\ntags: [a]\n")
    assert reader.flatten(reader.read_options(tmp_path)) == {"seed": 3, "method.beta": 1e-05, "tags": ["a"]}


def test_runs_are_found_below_a_sweep_that_was_a_run_as_well_and_not_below_a_run(tmp_path: Path) -> None:
    for name in (
        "10/summary.json",
        "2/.hydra/overrides.yaml",
        "2/old/summary.json",
        "x/y/metrics.jsonl",
        ".z/config.yaml",
    ):
        write(tmp_path / name, "")
    (tmp_path / ".hydra").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in reader.find_folders(tmp_path)]
    assert found == ["2", "10", "x/y"]
    write(tmp_path / "summary.json", "{}")
    assert list(reader.find_folders(tmp_path)) == [tmp_path]
    write(tmp_path / "multirun.yaml", "")
    assert len(list(reader.find_folders(tmp_path))) == 4


def test_hydras_record_of_the_overrides(tmp_path: Path) -> None:
    assert reader.read_overrides(tmp_path) is None
    write(tmp_path / ".hydra" / "overrides.yaml", "- seed=1\n- name=a\n")
    assert reader.read_overrides(tmp_path) == ["seed=1", "name=a"]
    for damaged in ("7\n", "seed=1\n", "seed: 1\n"):
        write(tmp_path / ".hydra" / "overrides.yaml", damaged)
        assert reader.read_overrides(tmp_path) is None


def test_nobody_else_decodes_a_run_folders_files() -> None:
    writers = {"run/record.py"}  # appends to clients.csv, and reads its own header for that
    own = ("metrics.jsonl", "clients.csv", "summary.json", "masks.jsonl")
    for path in [*(ROOT / "fedpurin").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")]:
        name = path.relative_to(ROOT / "fedpurin").as_posix() if path.is_relative_to(ROOT / "fedpurin") else path.name
        if name == "run/reader.py" or name in writers:
            continue
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            called = ast.unparse(call.func)
            if called.endswith(("json.loads", "DictReader", "read_text", "read_bytes")):
                assert not any(file in ast.unparse(call) for file in own), f"{name}:{call.lineno}"
