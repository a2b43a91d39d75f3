"""Which folders hold runs.

Owns: what is said of the paths that the user named. Does not own: the search (run/reader.py), what is inside a run
folder (read.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedpurin.run.reader import find_folders

PAGE_MARK = "report.html"


@dataclass(frozen=True)
class Problem:
    """Something that the page has to say about a folder: why it was skipped, or what of it was not used."""

    path: Path
    what: str
    skipped: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def find_run_folders(paths: Sequence[Path]) -> tuple[list[Path], list[Problem]]:
    """Run folders in or below `paths`, in natural order (2 before 10) and each once, and the paths without any."""
    found: dict[Path, None] = {}
    problems = []
    for path in paths:
        if not path.exists():
            problems.append(Problem(path, "there is no such folder"))
        elif not path.is_dir():
            problems.append(Problem(path, "is a file; name the run folder that it lies in"))
        else:
            below = dict.fromkeys(folder.resolve() for folder in find_folders(path))
            if not below:
                problems.append(Problem(path, "holds no run"))
            found |= below
    return [_shorten(folder) for folder in found], problems


def _shorten(folder: Path) -> Path:
    """Relative to where the command runs, when it lies there."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
