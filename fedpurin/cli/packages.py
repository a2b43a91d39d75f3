"""The user's packages in the working folder, and whether fedpurin's own top-level ones are those that Python imports.

The wheel installs `callbacks`, `configs` and `lightning_modules` beside `fedpurin`. A user's own project often has
packages of these names, and one that stands earlier on `sys.path` hides ours. Nothing is imported to find out.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import fedpurin

COMPANIONS = ("callbacks", "configs", "lightning_modules")


class WorkingFolder(MetaPathFinder):
    """Finds what nothing else finds in the folder where `fedpurin` was started, as `python -m fedpurin` does.

    It comes last, so a folder there that is called `configs` or `torch` hides nothing.
    """

    def __init__(self) -> None:
        self.folder = str(Path.cwd())

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.PathFinder.find_spec(fullname, [self.folder], target) if path is None else None


def find_own_packages() -> None:
    """Let `model._target_=my_package.MyModule` be found in the working folder, whatever Hydra changes it to later."""
    if not any(isinstance(finder, WorkingFolder) for finder in sys.meta_path):
        sys.meta_path.append(WorkingFolder())


def hidden_companions() -> str | None:
    """One line that names the packages that hide ours, and where they lie; None where all are ours."""
    home = Path(fedpurin.__file__).resolve().parent.parent
    hidden = []
    for name in COMPANIONS:
        place = _folder_of(find_spec(name))
        if place != home / name:
            hidden.append(f"{name} ({place or 'not found'})")
    if not hidden:
        return None
    return (
        f"not fedpurin's own: {', '.join(hidden)}; they hide those in {home}, so options may not be found. Rename them, "
        "or keep their folder out of PYTHONPATH and start `fedpurin` instead of `python -m fedpurin`"
    )


def _folder_of(spec: importlib.machinery.ModuleSpec | None) -> Path | None:
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if places:
        return Path(places[0]).resolve()
    return Path(spec.origin).resolve() if spec is not None and spec.origin else None
