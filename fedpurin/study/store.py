"""Where a study's runs lie: one folder for each version of the code, data set and set of options.

    ROOT/CODE-DATA/OPTIONS/     a run folder as every other

Owns: the three fingerprints, and how a run stands. A run of other code or other data lies in another folder by
construction, so that results cannot mix; `others` names what lies there. Does not own: running (runner.py).
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedpurin.run.lock import is_locked
from fedpurin.run.reader import ENDED, read_summary
from fedpurin.study.plan import PlannedRun

PACKAGES = ("fedpurin", "lightning_modules", "callbacks", "configs")
WITHOUT_EFFECT = ("cli", "report", "study", "tracking", "sweeps", "logger", "launcher")
"""Folders of these packages that no run's bits depend on."""
LENGTH = 10
MEASURED = "measured"
"""Stands for the data set where a script measures (measured.py)."""
State = Literal["done", "failed", "running", "missing"]


@dataclass
class Store:
    """The folders below one root, for the code as it is now."""

    root: Path
    code: str
    data: dict[str, str] = field(default_factory=dict)
    """Fingerprints of data sets by the options that choose them: each is computed once."""

    def folder(self, run: PlannedRun) -> Path:
        """Where this run lies or will lie."""
        key = hashlib.sha256("\n".join(run.overrides).encode()).hexdigest()[:LENGTH]
        return self.root / f"{self.code}-{self.data_of(run)}" / key

    def data_of(self, run: PlannedRun) -> str:
        options = tuple(item for item in run.overrides if item.startswith(("data=", "data.")))
        key = " ".join(options)
        if key not in self.data:
            self.data[key] = data_version(options)
        return self.data[key]

    def state(self, run: PlannedRun) -> State:
        """How the run stands, by its folder; one that stopped on the way is missing and goes on from a checkpoint."""
        if is_locked(self.folder(run)):
            return "running"
        status = read_summary(self.folder(run)).get("status")
        if status in ENDED:
            return "done"
        return "failed" if status in ("failed", "refused") else "missing"

    def error(self, run: PlannedRun) -> str:
        return str(read_summary(self.folder(run)).get("error", "no reason on record"))

    def others(self, runs: Iterable[PlannedRun]) -> list[str]:
        """A line for each version of code or data, other than those of `runs`, that the root holds results of."""
        own = {f"{self.code}-{MEASURED}", *(self.folder(run).parent.name for run in runs)}
        counts = Counter(path.parent.parent.name for path in self.root.glob("*/*/summary.json"))
        lines = []
        for name, count in sorted(counts.items()):
            code, _, data = name.partition("-")
            if name not in own and data:
                different = [
                    f"{what} {value}"
                    for what, value, here in (
                        ("code version", code, {self.code}),
                        ("data set", data, {MEASURED, *self.data.values()}),
                    )
                    if value not in here
                ]
                lines.append(
                    f"{self.root / name}: {count} results of {' and '.join(different)}, kept apart and not used"
                )
        return lines


def code_version(root: Path) -> str:
    """Fingerprint of the code and configuration below `root` that runs depend on.

    Python counts as its syntax tree without docstrings, so comments and formatting do not make another version.
    """
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            parts = path.relative_to(root).parts
            if path.suffix not in (".py", ".yaml") or set(parts[1:-1]) & {*WITHOUT_EFFECT, "__pycache__"}:
                continue
            digest.update("/".join(parts).encode())
            digest.update(
                _tree(path.read_text(encoding="utf-8")).encode() if path.suffix == ".py" else path.read_bytes()
            )
    return digest.hexdigest()[:LENGTH]


def data_version(options: Sequence[str]) -> str:
    """Fingerprint of the samples that these options choose, as they are read from their files.

    Raises:
        ConfigError: the data set is not there.
    """
    from fedpurin.data.sources import load
    from fedpurin.run.compose import compose_config

    config, _ = compose_config(list(options))
    data = load(config.data, 0)
    digest = hashlib.sha256()
    for pool in (data.train, data.test):
        for tensor in pool.tensors():
            digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:LENGTH]


def _tree(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree)
