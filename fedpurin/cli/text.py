"""Plain text on the terminal: lines that survive `| head`, and signs that a Latin-1 terminal cannot show."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable


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
