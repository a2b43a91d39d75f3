"""Plain text on the terminal: help that fits it, lines that survive `| head`, signs that a Latin-1 terminal cannot show."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import textwrap
from collections.abc import Iterable


class Help(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written where they fit; where they do not, folded as a reader would.

    Unindented lines are paragraphs and are filled. An indented line is an example, a command and perhaps two spaces and
    what it does: too wide, it goes on below; a command goes on after a backslash, so that it can still be copied.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in fold(text, width - len(indent)))


def fold(text: str, width: int) -> list[str]:
    """The lines of `text`, none wider than `width` unless it is one word."""
    lines: list[str] = []
    paragraph: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line and not line.startswith(" ") and "  " not in line:
            paragraph.append(line)
            continue
        lines += textwrap.wrap(" ".join(paragraph), width, break_long_words=False, break_on_hyphens=False)
        paragraph = []
        lines += [line] if len(line) <= width else _fold_example(line, width)
    return lines[:-1]


def _fold_example(line: str, width: int) -> list[str]:
    lead, rest = re.match(r"(\s*)(.*)", line).groups()  # type: ignore[union-attr]  # matches everything
    command, gap, comment = re.match(r"(.*?)(?:(\s{2,})(.*))?$", rest).groups()  # type: ignore[union-attr]
    hang, column = lead + "    ", len(lead + command + (gap or ""))
    if comment and len(lead + command) <= width and width - column >= 20:
        below = textwrap.wrap(comment, width - column, break_long_words=False)
        return [f"{lead}{command}{gap}{below[0]}", *(" " * column + part for part in below[1:])]
    lines = textwrap.wrap(
        command, width - 2, initial_indent=lead, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
    )
    lines = [f"{part} \\" for part in lines[:-1]] + lines[-1:]
    return lines + textwrap.wrap(
        comment or "", width, initial_indent=hang, subsequent_indent=hang, break_long_words=False
    )


def show_what_can_be_shown() -> None:
    """A sign that the terminal's encoding lacks becomes `?` instead of an exception."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def print_lines(lines: Iterable[str]) -> None:
    """Print; a reader who has seen enough (`| head`) is no mistake."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
