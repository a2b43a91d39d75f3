"""The value that the runs of a page are judged by, and how it is written: the personalised accuracy, what
`trainer.monitor` names, or what the reader asks for (`fedpurin report --value`).

Owns: which value all runs of a page have, its direction, its names and units for readers. Does not own: how it is
recorded (fedpurin/metrics.py), its means and intervals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedpurin.config import ConfigError, did_you_mean
from fedpurin.metrics import ACCURACY, VARIANTS, headline, measured_stems

OWN = VARIANTS[0]
SPELLED = {"personalized": "personalised", "sparse": "sparse", "merged": "merged"}
MEASURED_ON = {
    "personalized": "each client's own model on its own test data",
    "sparse": "each client's own model with its critical parameters only, the others zero, on its own test data",
    "merged": "the model that each client starts the next round from, on its own test data",
}


@dataclass(frozen=True)
class Headline:
    """A recorded value (`accuracy`, `test/NAME`), whether more (`max`) or less (`min`) of it is better, and of which of a
    client's models it is.
    """

    stem: str = ACCURACY
    mode: Literal["max", "min"] = "max"
    variant: str = OWN

    @property
    def is_accuracy(self) -> bool:
        return self.stem == ACCURACY

    @property
    def name(self) -> str:
        """In a sentence that need not say that the model is the client's own."""
        return self.stem.removeprefix("test/") if self.variant == OWN else self.subject

    @property
    def subject(self) -> str:
        """In a sentence, with the model that it is of."""
        return f"{SPELLED[self.variant]} {self.stem.removeprefix('test/')}"

    @property
    def heading(self) -> str:
        """The subject where it begins a sentence, a column or an axis."""
        return _upper(self.subject)

    @property
    def title(self) -> str:
        """The name where it begins a title."""
        return _upper(self.name) if self.is_accuracy or self.variant != OWN else self.name

    @property
    def key(self) -> str:
        """In names of files and columns."""
        return re.sub(r"[^0-9a-zA-Z]+", "_", self.name).strip("_").lower() or "value"

    @property
    def column(self) -> str:
        """Where it is recorded."""
        return f"{self.stem}/{self.variant}"

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


def asked_headline(value: str, mode: str | None, recorded: Iterable[str], own: Iterable[Headline]) -> Headline:
    """What `--value VALUE [--mode MODE]` means among recorded columns; `own` is what the runs say that they are judged by.

    Raises:
        ConfigError: nothing of this name is recorded, or nobody says whether more or less of it is better.
    """
    recorded = set(recorded)
    heads = [Headline(stem, "max", variant) for stem in measured_stems(recorded) for variant in VARIANTS]
    heads = [head for head in heads if head.column in recorded]
    known: dict[str, Headline] = {}
    for head in heads:
        for spelling in _spellings(head):
            known.setdefault(spelling, head)
    if (found := known.get(value)) is None:
        shortest = list({head: spelling for spelling, head in reversed(known.items())}.values())[::-1]
        raise ConfigError(
            f"--value {value}: no run recorded it{did_you_mean(value, shortest)}\nrecorded: {', '.join(shortest) or 'none'}"
        )
    if found.is_accuracy:
        if mode == "min":
            raise ConfigError(f"--value {value} --mode min: of an accuracy more is better")
        return found
    modes = {head.mode for head in own if head.stem == found.stem}
    if mode is None and not modes and "loss" in found.stem.lower():
        modes = {"min"}
    if mode is None and len(modes) != 1:
        raise ConfigError(f"--value {value}: add --mode max where more of it is better, --mode min where less")
    return replace(found, mode="min" if (mode or modes.pop()) == "min" else "max")


def _spellings(head: Headline) -> list[str]:
    """What `--value` takes for a recorded column, the shortest first, the column's own name last."""
    bare = head.stem.removeprefix("test/")
    stems = list(dict.fromkeys((bare, head.stem)))
    return [*(stems if head.variant == OWN else ()), *(f"{stem}/{head.variant}" for stem in stems)]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
