"""Which recorded options a run used: only these tell groups apart and name them.

Owns: what the report ignores. Does not own: which options change a result and which choice reads them (marks in config.py,
fedpurin/science.py), warnings to somebody who starts a run (fedpurin/run/effects.py).
"""

from __future__ import annotations

from typing import Any

from fedpurin.config import Config
from fedpurin.report.read import Run
from fedpurin.science import Changes, covers, marked, read_only_if

IGNORED = (
    *marked(Config, Changes.NOTHING, Changes.BITS, Changes.RECORD, Changes.DRAW),
    *("horizon", "method._target_", "launcher"),
)
"""Options that do not change a result, and recorded names that other options say already."""
MASK_OPTIONS = ("scores.", "program.")
READ_IF = read_only_if(Config)
DETAILS = READ_IF.keys() - {"program.tau", "program.budget", "partition.alpha", "partition.classes_per_client"}
"""Options that do not name a group merely because others do not read them."""


def relevant(run: Run) -> dict[str, Any]:
    """Options that can change this run's result."""
    dropped: tuple[str, ...] = ()
    if not run.uses_masks and not run.has("mask/density"):
        dropped = (*dropped, *MASK_OPTIONS)
    if run.method == "local":
        dropped = (*dropped, "exchange.")
    return {
        option: value
        for option, value in run.options.items()
        if not covers(IGNORED, option) and not option.startswith(dropped) and _is_read(option, run.options)
    }


def _is_read(option: str, options: Any) -> bool:
    mark = READ_IF.get(option)
    return mark is None or mark.option not in options or options[mark.option] in (*mark.values, "custom")
