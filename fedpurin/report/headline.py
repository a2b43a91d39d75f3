"""The value that the runs of a page are judged by, and how it is written: the accuracy, or what `trainer.monitor` names.

Owns: which value all runs of a page have, its direction, its names and units for readers. Does not own: how it is
recorded (fedpurin/metrics.py), its means and intervals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedpurin.metrics import ACCURACY, headline


@dataclass(frozen=True)
class Headline:
    """A recorded value (`accuracy`, `test/NAME`) and whether more (`max`) or less (`min`) of it is better."""

    stem: str = ACCURACY
    mode: Literal["max", "min"] = "max"

    @property
    def is_accuracy(self) -> bool:
        return self.stem == ACCURACY

    @property
    def name(self) -> str:
        return self.stem.removeprefix("test/")

    @property
    def title(self) -> str:
        """At the beginning of a title."""
        return "Accuracy" if self.is_accuracy else self.name

    @property
    def key(self) -> str:
        """In names of files and columns."""
        return re.sub(r"[^0-9a-zA-Z]+", "_", self.name).strip("_").lower() or "value"

    @property
    def personalized(self) -> str:
        return f"{self.stem}/personalized"

    @property
    def sparse(self) -> str:
        return f"{self.stem}/sparse"

    @property
    def sign(self) -> int:
        """Times a value: more is better."""
        return -1 if self.mode == "min" else 1

    @property
    def kind(self) -> Literal["share", "number"]:
        return "share" if self.is_accuracy else "number"

    @property
    def unit(self) -> str:
        """Behind a column's title."""
        return " (%)" if self.is_accuracy else ""

    @property
    def direction(self) -> str:
        """Behind the value's name, where a reader cannot know it."""
        return "" if self.is_accuracy else f" ({'less' if self.mode == 'min' else 'more'} is better)"

    @property
    def highest(self) -> str:
        return "lowest" if self.mode == "min" else "highest"

    def better(self, value: float, than: float) -> bool:
        return self.sign * value > self.sign * than

    def write(self, value: float, digits: int = 2) -> str:
        """A value: percent of an accuracy without the sign, four digits of any other."""
        if not math.isfinite(value):
            return "–"
        return f"{100 * value:.{digits}f}" if self.is_accuracy else f"{value:.4g}"

    def write_spread(self, mean: float, std: float, digits: int = 2) -> str:
        """Mean ± standard deviation, two digits of the latter where they are no percents."""
        if not math.isfinite(mean) or not math.isfinite(std):
            return self.write(mean, digits)
        return f"{self.write(mean, digits)} ± " + (f"{100 * std:.{digits}f}" if self.is_accuracy else f"{std:.2g}")

    def write_difference(self, value: float) -> str:
        """With its sign: percentage points of an accuracy, three digits of any other."""
        text = f"{100 * value:+.1f}" if self.is_accuracy else f"{value:+.3g}"
        return text.replace("-", "−")


def headline_of(options: Mapping[str, Any], recorded: Iterable[str]) -> Headline:
    """What a run says that it is judged by."""
    monitor = options.get("trainer.monitor")
    stem = headline(None if monitor is None else str(monitor), recorded)
    return Headline(stem, "min" if stem != ACCURACY and options.get("trainer.monitor_mode") == "min" else "max")
