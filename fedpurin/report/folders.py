"""Which folders hold runs.

Owns: the search below the paths that the user named. Does not own: what is inside a run folder (read.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

RUN_FILES = frozenset({"config.yaml", "metrics.jsonl", "summary.json"})
HYDRA = ".hydra"  # Hydra makes it before the run starts: the mark of a sweep's job that failed at once
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
    """Run folders in or below `paths`, in natural order (2 before 10) and each once, and the paths without any.

    A folder is a run's if it holds one of RUN_FILES or Hydra's own folder; nothing is searched below a run.
    """
    found: dict[Path, None] = {}
    problems = []
    for path in paths:
        if not path.exists():
            problems.append(Problem(path, "there is no such folder"))
        elif not path.is_dir():
            problems.append(Problem(path, "is a file; name the run folder that it lies in"))
        else:
            below = dict.fromkeys(folder.resolve() for folder in _search(path))
            if not below:
                problems.append(Problem(path, "holds no run"))
            found |= below
    return [_shorten(folder) for folder in found], problems


def _search(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        if PAGE_MARK in files:  # an earlier report
            subfolders.clear()
        elif RUN_FILES.intersection(files) or HYDRA in subfolders:
            subfolders.clear()
            yield Path(folder)
        else:
            subfolders[:] = _natural_order(name for name in subfolders if not name.startswith("."))


def _natural_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))


def _shorten(folder: Path) -> Path:
    """Relative to where the command runs, when it lies there."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
