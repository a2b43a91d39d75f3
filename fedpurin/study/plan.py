"""A study as one YAML file, and the runs that it asks for.

Owns: reading and checking `configs/study/NAME.yaml`, the product of settings, variants and seeds, the smoke version of it.
Does not own: which of the runs are done (store.py), what is made of them (compare.py, page.py). Imports neither torch
nor Hydra.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import field
from importlib import resources
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from fedpurin.config import ConfigError, did_you_mean, explain_invalid

_FROZEN = ConfigDict(extra="forbid")
QUICK = (
    "data=digits", "partition.num_clients=3", "partition.train_per_client=20", "partition.test_per_client=10",
    "trainer.rounds=2", "trainer.local_epochs=1", "horizon=1",
)  # fmt: skip
"""What makes a smoke run of any run: digits ship with the package, so that it needs no data set either."""


@dataclass(frozen=True, config=_FROZEN)
class Contrast:
    """Two variants whose difference the text speaks of."""

    of: str
    against: str


@dataclass(frozen=True)
class Cell:
    """One number of the table: a variant in a setting, with the overrides that make it."""

    setting: str
    variant: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class PlannedRun:
    """A cell with one of its seeds. `overrides` name each option once."""

    cell: Cell
    seed: int
    overrides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class Study:
    """What a file of configs/study says. Every mapping is from a label to overrides."""

    name: str
    title: str
    question: str
    base: list[str]
    """Overrides of every run."""
    settings: dict[str, list[str]] = field(default_factory=dict)
    """What every variant faces alike."""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """Instead of settings: options and their values, of which every combination is one."""
    variants: dict[str, list[str]]
    seeds: list[int]
    reference: str | None = None
    """Variant that the others are measured against in the table; None: the first."""
    comparisons: list[Contrast] = field(default_factory=list)
    layout: Literal["tables", "matrix"] = "tables"
    """A table for each setting with every column, or one with the settings as columns and accuracies only."""
    figure: Literal["bytes", "heat", "none"] = "bytes"
    """Accuracy against bytes, a panel a setting; or the gain over the reference as a matrix."""
    curves: dict[str, list[str]] = field(default_factory=dict)
    """Variants that the figure joins by a line, such as one rule at several densities."""
    unknown: str = ""
    """What remains open, for the page."""
    quick: list[str] = field(default_factory=list)
    """Further overrides of the smoke version."""

    @model_validator(mode="after")
    def _check(self) -> Study:
        if self.settings and self.grid:
            raise ValueError("settings and grid are two ways to say the same; give one of them")
        if not self.variants or not self.seeds:
            raise ValueError("variants and seeds need at least one entry each")
        named = [side for contrast in self.comparisons for side in (contrast.of, contrast.against)]
        named += itertools.chain(*self.curves.values())
        for variant in [*named, *([self.reference] if self.reference is not None else [])]:
            if variant not in self.variants:
                raise ValueError(f"{variant} is not one of its variants: {', '.join(self.variants)}")
        for override in itertools.chain(self.base, self.quick, *self.settings.values(), *self.variants.values()):
            if "=" not in override:
                raise ValueError(f"{override}: this is not an override; write option=value")
        return self

    @property
    def all_settings(self) -> dict[str, list[str]]:
        """The settings by label; a study without any has one, without a name."""
        if not self.grid:
            return self.settings or {"": []}
        combinations = itertools.product(*self.grid.values())
        return {
            ", ".join(f"{_short(option)}={value}" for option, value in zip(self.grid, values, strict=True)): [
                f"{option}={_value(value)}" for option, value in zip(self.grid, values, strict=True)
            ]
            for values in combinations
        }

    @property
    def measured_against(self) -> str:
        return self.reference or next(iter(self.variants))

    def cells(self) -> list[Cell]:
        """Every setting with every variant, in the file's order."""
        return [
            Cell(setting, variant, merge(self.base, faced, own))
            for setting, faced in self.all_settings.items()
            for variant, own in self.variants.items()
        ]

    def runs(self, *, quick: bool = False) -> list[PlannedRun]:
        """Every cell with every seed. The smoke version takes one seed, and of the product its first row and column."""
        cells, seeds = self.cells(), self.seeds
        if quick:
            first, variant = cells[0].setting, cells[0].variant
            cells, seeds = [cell for cell in cells if first == cell.setting or variant == cell.variant], seeds[:1]
        smoke = [*QUICK, *self.quick] if quick else []
        return [
            PlannedRun(cell, seed, merge(cell.overrides, [f"seed={seed}"], smoke)) for seed in seeds for cell in cells
        ]


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class Measured:
    """A file of configs/study whose numbers a script measures, in place of runs (measured.py)."""

    name: str
    title: str
    question: str
    measure: list[str]
    """A script of the checkout, and its arguments."""
    table: str
    """The Markdown file that it writes into its --out."""
    image: str | None = None
    quick: list[str] = field(default_factory=list)
    """Further arguments of the smoke version."""
    unknown: str = ""


def merge(*overrides: Iterable[str]) -> tuple[str, ...]:
    """One override an option, the last that is given, in alphabetical order: the same options, the same tuple."""
    last = {override.partition("=")[0].lstrip("+"): override for override in itertools.chain(*overrides)}
    return tuple(last[option] for option in sorted(last))


def study_names() -> list[str]:
    """The studies that there are."""
    folder = resources.files("configs") / "study"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_study(name: str) -> Study | Measured:
    """The study of that name.

    Raises:
        ConfigError: there is none, or its file is not one.
    """
    names = study_names()
    if name not in names:
        raise ConfigError(f"{name}: there is no such study{did_you_mean(name, names)}; studies: {', '.join(names)}")
    return parse_file(name, (resources.files("configs") / "study" / f"{name}.yaml").read_text(encoding="utf-8"))


def parse_study(name: str, text: str) -> Study:
    """A study of runs from the text of its file."""
    study = parse_file(name, text)
    assert isinstance(study, Study)
    return study


def parse_file(name: str, text: str) -> Study | Measured:
    """A study from the text of its file; one with `measure` has a script in place of runs.

    Raises:
        ConfigError: no YAML, an unknown key, a comparison of variants that it does not have.
    """
    import yaml

    where = f"configs/study/{name}.yaml"
    try:
        loaded = yaml.safe_load(text)
        kind: type[Study] | type[Measured] = Measured if "measure" in loaded else Study
        return TypeAdapter(kind).validate_python({"name": name, **loaded})
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())[:200]}") from None
    except TypeError:
        raise ConfigError(f"{where} is no study: it holds no mapping") from None
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain_invalid(error)}") from None


def chosen_studies(names: Sequence[str]) -> list[Study | Measured]:
    """The studies that a command line names; all of them for `all` or for no name."""
    wanted = list(dict.fromkeys(names))
    return [read_study(name) for name in (study_names() if not wanted or "all" in wanted else wanted)]


def _short(option: str) -> str:
    return option.rpartition(".")[2]


def _value(value: Any) -> str:
    """A number, a word or null, as an override writes it."""
    return "null" if value is None else str(value)
