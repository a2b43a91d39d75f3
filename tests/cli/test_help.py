"""Help that fits the terminal: every command's page at 60 and 80 columns, and how text is folded."""

from __future__ import annotations

import pytest

from fedpurin.__main__ import _command, main
from fedpurin.cli.help import COMMANDS
from fedpurin.cli.text import fold

PAGES = [*([name] for name in COMMANDS), ["sweep", "status"], ["sweep", "expand"]]


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_a_command_s_help_fits_the_terminal(
    words: list[str], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as end:
        _command(words[0])([*words[1:], "--help"])
    page = capsys.readouterr().out
    assert end.value.code == 0
    assert page.startswith(f"usage: fedpurin {' '.join(words)}")
    assert [line for line in page.splitlines() if len(line) > columns] == []


@pytest.mark.parametrize("columns", [60, 80])
def test_the_first_page_fits_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert "fedpurin reproduce" in page
    assert [line for line in page.splitlines() if len(line) > columns] == []


def test_paragraphs_are_filled_and_examples_go_on_below() -> None:
    text = "One line\nand its second.\n\nExamples:\n  run a.b=1 c.d=2     what it does\n  a=1"
    assert fold(text, 80) == [
        "One line and its second.", "", "Examples:", "  run a.b=1 c.d=2     what it does", "  a=1",
    ]  # fmt: skip
    assert fold(text, 24) == [
        "One line and its second.", "", "Examples:", "  run a.b=1 c.d=2", "      what it does", "  a=1",
    ]  # fmt: skip


def test_a_folded_command_can_still_be_copied() -> None:
    assert fold("  run first=1 second=2 third=3", 20) == ["  run first=1 \\", "      second=2 \\", "      third=3"]
    assert fold("  run one=1     a comment that goes on and on", 40) == [
        "  run one=1     a comment that goes on",
        "                and on",
    ]
