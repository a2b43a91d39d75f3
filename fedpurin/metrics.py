"""What a measured value is called: `accuracy/VARIANT`, `test/NAME/VARIANT`, and which of them is a run's headline.

`validation_step` may log whatever it likes. One value can serve as the accuracy and is recorded under that name; every
other is `test/NAME`. The headline is the value that a run is judged by: `trainer.monitor` where it is no accuracy, else
the accuracy. Owns: these names. Does not own: measuring (local/evaluation.py), means over clients (federation.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

VARIANTS = ("personalized", "sparse", "merged")
"""The three models of a client that are measured (docs/method.md, step 8)."""
ACCURACY = "accuracy"
ACCURACY_NAMES = ("accuracy", "acc", "val_accuracy", "val_acc", "val/accuracy", "val/acc", "valid_accuracy")
"""Names that are taken for the accuracy unless `trainer.monitor` names another, the first that was logged."""


def accuracy_name(logged: Iterable[str], monitor: str | None) -> str | None:
    """Which of the logged names is the accuracy; None where none is."""
    logged = list(logged)
    if monitor in logged and any(part in monitor.lower() for part in ("acc", "top1", "top_1", "top-1")):
        return monitor
    return next((name for name in ACCURACY_NAMES if name in logged), None)


def stems(logged: Iterable[str], monitor: str | None) -> dict[str, str]:
    """What comes before `/VARIANT` for each logged name."""
    logged = list(logged)
    accuracy = accuracy_name(logged, monitor)
    return {name: ACCURACY if name == accuracy else f"test/{name}" for name in logged}


def headline(monitor: str | None, recorded: Iterable[str]) -> str:
    """The stem that a run with these recorded columns is judged by."""
    own = f"test/{monitor}"
    return own if monitor is not None and any(name.startswith(f"{own}/") for name in recorded) else ACCURACY


def measured_stems(recorded: Iterable[str]) -> list[str]:
    """Every stem among recorded columns, the accuracy first, the others by name."""
    found = set()
    for name in recorded:
        stem, _, variant = name.rpartition("/")
        if variant in VARIANTS and (stem == ACCURACY or stem.startswith("test/")):
            found.add(stem)
    return sorted(found, key=lambda stem: (stem != ACCURACY, stem))


def best(values: Iterable[float], mode: str) -> float | None:
    """The best of some values, where `mode` says whether more (`max`) or less (`min`) is better."""
    return (max if mode == "max" else min)(values, default=None)


def spread(values: Iterable[float], mode: str) -> Mapping[str, Any]:
    """The worst and the best of some values."""
    values = list(values)
    return {"worst": best(values, "min" if mode == "max" else "max"), "best": best(values, mode)}
