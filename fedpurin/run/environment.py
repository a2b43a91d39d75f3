"""Where a run ran: what `environment.json` says of versions, machine, code revision and command.

Owns: the facts, and keeping secrets out of them, for run folders are handed on. Does not own: the file (record.py).
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "fedpurin",
    "torch",
    "torchvision",
    "lightning",
    "cvxpy",
    "pyscipopt",
    "numpy",
    "numba",
    "hydra-core",
)
SECRET = re.compile(
    r"(api_?key|access_?key|private_?key|token|secret|passw|pass$|pass_|passphrase|credential)", re.IGNORECASE
)
"""Names of variables and options whose values are nobody else's business."""
SECRET_VARIABLE = re.compile(rf"{SECRET.pattern}|_key(_id)?$", re.IGNORECASE)
"""As well: an option may be the key of a table."""
LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
HIDDEN = "***"
MIN_SECRET = 8  # a shorter value of a secret variable is a switch, say TOKENIZERS_PARALLELISM=false


def describe_environment() -> dict[str, Any]:
    """Versions, machine and code revision of this process."""
    return {
        "command": without_secrets(sys.argv, os.environ),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.node(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_revision": _git("rev-parse", "HEAD"),
        "git_changed_files": (_git("status", "--porcelain", "--untracked-files=no") or "").splitlines(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "slurm_restart_count": os.environ.get("SLURM_RESTART_COUNT"),
    }


def without_secrets(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """A command line with `***` for values of secret options and variables, and for logins in addresses."""
    known = sorted(
        (value for name, value in environment.items() if SECRET_VARIABLE.search(name)), key=len, reverse=True
    )
    masked, hides = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hides and not argument.startswith("-"):
            argument = HIDDEN
        elif equals and SECRET.search(name):
            argument = f"{name}={HIDDEN}"
        for value in known:
            argument = argument.replace(value, HIDDEN) if len(value) >= MIN_SECRET else argument
        hides = argument.startswith("--") and not equals and bool(SECRET.search(name))
        masked.append(LOGIN.sub(f"{HIDDEN}@", argument))
    return masked


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Git's answer about the folder that the code lies in; None outside a checkout."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
