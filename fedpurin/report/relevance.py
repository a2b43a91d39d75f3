"""Which recorded options a run used: only these tell groups apart and name them.

Owns: what the report ignores, and which choice reads which option. Does not own: warnings to somebody who starts a run
(fedpurin/run/effects.py, which the report cannot import: it stands above).
"""

from __future__ import annotations

from typing import Any

from fedpurin.report.read import Run

IGNORED = frozenset({
    "seed", "name", "tags", "resume", "network", "horizon", "method._target_", "data.root", "data.download",
    "exchange.bucket_mib", "exchange.timeout_seconds", "program.overlap",
    "trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.threads",
    "trainer.evaluate_every", "trainer.monitor",
})  # fmt: skip
IGNORED_GROUPS = ("callbacks.", "logger.", "checkpoint.", "launcher.", "choices.")
MASK_OPTIONS = ("scores.", "program.")
READERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "program.tau": ("program.name", ("layerwise", "global")),
    "program.density_floor": ("program.name", ("global",)),
    "program.density_ceiling": ("program.name", ("global",)),
    "program.budget": ("program.name", ("budget",)),
    "program.gap_tolerance": ("program.name", ("budget",)),
    "program.time_limit": ("program.name", ("budget",)),
    "partition.alpha": ("partition.name", ("dirichlet",)),
    "partition.classes_per_client": ("partition.name", ("pathological",)),
    "partition.volume.sigma": ("partition.volume.name", ("lognormal",)),
    "partition.volume.exponent": ("partition.volume.name", ("powerlaw",)),
    "partition.volume.floor": ("partition.volume.name", ("lognormal", "powerlaw")),
    "scores.gradient_dtype": ("scores.source", ("gradient",)),
}
"""Option: the choice that decides whether it is read, and the values under which it is."""

DETAILS = READERS.keys() - {"program.tau", "program.budget", "partition.alpha", "partition.classes_per_client"}
"""Options that do not name a group merely because others do not read them."""


def relevant(run: Run) -> dict[str, Any]:
    """Options that can change this run's result."""
    dropped: tuple[str, ...] = IGNORED_GROUPS
    if not run.uses_masks and not run.has("mask/density"):
        dropped = (*dropped, *MASK_OPTIONS)
    if run.method == "local":
        dropped = (*dropped, "exchange.")
    return {
        option: value
        for option, value in run.options.items()
        if option not in IGNORED and not option.startswith(dropped) and _is_read(option, run.options)
    }


def _is_read(option: str, options: Any) -> bool:
    if option not in READERS:
        return True
    deciding, values = READERS[option]
    return deciding not in options or options[deciding] in values
