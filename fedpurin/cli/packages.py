"""Whether the top-level packages that come with fedpurin are the ones that Python imports.

The wheel installs `callbacks`, `configs` and `lightning_modules` beside `fedpurin`. A user's own project often has
packages of these names, and one that stands earlier on `sys.path` hides ours. Nothing is imported to find out.
"""

from __future__ import annotations

import importlib.machinery
from importlib.util import find_spec
from pathlib import Path

import fedpurin

COMPANIONS = ("callbacks", "configs", "lightning_modules")


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
