"""Runs into groups that differ in nothing but the seed, with names, looks and settings.

A setting is what every method faces alike (data, partition, model, trainer); only methods of one setting compete.
Options that a run does not use (relevance.py) do not tell groups apart.
A finished run counts before one that stopped early; a seed counts once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fedpurin.config import ConfigError
from fedpurin.report.folders import Problem
from fedpurin.report.headline import Headline, asked_headline
from fedpurin.report.named import describe, format_value
from fedpurin.report.read import Array, Run
from fedpurin.report.relevance import DETAILS, relevant
from fedpurin.report.style import LOCAL, Style, categorical

SETTING = ("data.", "partition.", "model.", "trainer.", "network.", "roles.")
MAX_DRAWN = 10
"""Series that a figure of lines draws in colour; further ones are grey."""


@dataclass(frozen=True)
class Curve:
    """A metric over rounds, mean and sample standard deviation over the seeds that have the round."""

    rounds: Array
    mean: Array
    std: Array
    count: Array

    @property
    def low(self) -> Array:
        return self.mean - np.nan_to_num(self.std)

    @property
    def high(self) -> Array:
        return self.mean + np.nan_to_num(self.std)


@dataclass(frozen=True)
class Spread:
    """A number over seeds: mean, sample standard deviation (NaN for one seed), number of seeds."""

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            return cls(math.nan, math.nan, 0)
        return cls(float(np.mean(finite)), float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan, len(finite))


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ in the seed only. `variant` and `setting_options` are the options that tell it from others."""

    method: str
    label: str
    setting: str
    options: Mapping[str, Any]
    variant: Mapping[str, Any]
    setting_options: Mapping[str, Any]
    runs: tuple[Run, ...]
    style: Style

    @property
    def swept(self) -> dict[str, Any]:
        """What was varied on the way to this group: its method, its variant of it, its setting."""
        return {"method": self.method, **self.variant, **self.setting_options}

    @property
    def full_label(self) -> str:
        return f"{self.label}, {self.setting}" if self.setting else self.label

    @property
    def uses_masks(self) -> bool:
        return any(run.uses_masks for run in self.runs)

    @property
    def is_complete(self) -> bool:
        return all(run.is_complete for run in self.runs)

    @property
    def drawn(self) -> bool:
        return not self.style.quiet

    def spread(self, measure: Callable[[Run], float]) -> Spread:
        return Spread.of(measure(run) for run in self.runs)

    def has(self, name: str) -> bool:
        return any(run.has(name) for run in self.runs)

    @property
    def is_judged(self) -> bool:
        """Whether the value that the page is judged by was recorded."""
        return any(run.has(run.judged_by.column) for run in self.runs)

    def curve(self, name: str, transform: Callable[[Run, Array], Array] = lambda _, values: values) -> Curve:
        """A metric by round over seeds; `transform` sees a run and its values first (to add up, to scale)."""
        rounds = np.unique(np.concatenate([run.rounds for run in self.runs]))
        table = np.full((len(self.runs), len(rounds)), math.nan)
        for row, run in zip(table, self.runs, strict=True):
            if name in run.metrics:
                row[np.searchsorted(rounds, run.rounds)] = transform(run, run.metrics[name])
        count = np.isfinite(table).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.nansum(table, axis=0) / count
            std = np.sqrt(np.nansum((table - mean) ** 2, axis=0) / (count - 1))
        keep = count > 0
        std[count < 2] = math.nan
        return Curve(rounds[keep], mean[keep], std[keep], count[keep].astype(np.float64))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything the page is made from."""

    data: str
    judged_by: Headline
    groups: tuple[Group, ...]
    settings: tuple[str, ...]
    runs: tuple[Run, ...]
    not_counted: Mapping[Run, str]
    problems: tuple[Problem, ...] = ()
    x: str | None = None
    """The option on the x axis of part 3."""
    at_bytes: float = 0.0
    """Bytes a client at which accuracies are compared; 0 takes what the thriftiest group spends in all."""

    @cached_property
    def by_setting(self) -> dict[str, list[Group]]:
        return {setting: [group for group in self.groups if group.setting == setting] for setting in self.settings}

    @cached_property
    def judged(self) -> dict[str, list[Group]]:
        """By setting, the groups that have the value that the page is judged by: what figures of it draw. Without any, all."""
        judged = {
            setting: [group for group in groups if group.is_judged] for setting, groups in self.by_setting.items()
        }
        return {setting: groups for setting, groups in judged.items() if groups} or self.by_setting

    @cached_property
    def swept(self) -> dict[str, list[Any]]:
        """Options that take several values here, beside the seed, with those values; the method among them."""
        values: dict[str, list[Any]] = defaultdict(list)
        for group in self.groups:
            for option, value in group.swept.items():
                if value not in values[option]:
                    values[option].append(value)
        return {option: sorted(given, key=_sort_key) for option, given in values.items() if len(given) > 1}

    def values(self, option: str) -> list[Any]:
        """The values that `option` takes over all groups that have it, ascending."""
        if option == "method":
            return list(dict.fromkeys(group.method for group in self.groups))
        given: list[Any] = []
        for group in self.groups:
            if option in group.options and group.options[option] not in given:
                given.append(group.options[option])
        return sorted(given, key=_sort_key)

    def local(self, setting: str) -> Group | None:
        """Separate training in this setting, which gains and losses are measured against."""
        return next((group for group in self.by_setting[setting] if group.method == "local"), None)


def compare(
    runs: Sequence[Run],
    problems: Sequence[Problem] = (),
    x: str | None = None,
    at_bytes: float = 0.0,
    *,
    value: str | None = None,
    mode: str | None = None,
) -> Comparison:
    """Group `runs`; `value` and `mode` ask for another value than the one that they are judged by.

    Raises:
        ConfigError: runs of different data sets or without a value in common, a value that none recorded, or an x axis
            that does not vary.
    """
    _require_one_data_set(runs)
    if value is not None:
        recorded = {name for run in runs for name in run.metrics if run.has(name)}
        judged_by = asked_headline(value, mode, recorded, [run.judged_by for run in runs])
    else:
        judged_by = _one_headline(runs)
        problems = [
            *problems,
            *(
                Problem(
                    run.path, f"judged by {run.judged_by.name} itself, by {judged_by.name} on this page", skipped=False
                )
                for run in runs
                if run.judged_by != judged_by
            ),
        ]
    runs = [run if run.judged_by == judged_by else replace(run, judged_by=judged_by) for run in runs]
    buckets: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        buckets[_identity(run)].append(run)
    counted: list[list[Run]] = []
    not_counted: dict[Run, str] = {}
    for bucket in buckets.values():
        kept, dropped = _one_a_seed(bucket)
        counted.append(kept)
        not_counted |= dropped
    groups = _name(sorted(counted, key=_group_order))
    settings = tuple(dict.fromkeys(group.setting for group in groups))
    comparison = Comparison(runs[0].data, judged_by, groups, settings, tuple(runs), not_counted, tuple(problems))
    return replace(comparison, x=_choose_x(comparison, x), at_bytes=at_bytes)


def _require_one_data_set(runs: Sequence[Run]) -> None:
    by_data: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_data[run.data].append(run)
    if len(by_data) > 1:
        found = ", ".join(f"{data} ({len(group)}, e.g. {group[0].path})" for data, group in sorted(by_data.items()))
        raise ConfigError(f"runs of different data sets cannot share a page: {found}; name the runs of one data set")


def _one_headline(runs: Sequence[Run]) -> Headline:
    """What most runs are judged by, of that what all of them recorded."""
    by_headline: dict[Headline, list[Run]] = defaultdict(list)
    for run in runs:
        by_headline[run.judged_by].append(run)
    most_first = sorted(by_headline, key=lambda headline: -len(by_headline[headline]))
    common = [
        headline for headline in most_first if len(most_first) == 1 or all(run.has(headline.column) for run in runs)
    ]
    if not common:
        found = ", ".join(
            f"{headline.name} ({len(group)}, e.g. {group[0].path})" for headline, group in by_headline.items()
        )
        raise ConfigError(
            f"runs that are judged by different values cannot share a page: {found}; name those of one, or with --value "
            "what all have"
        )
    return common[0]


def _choose_x(comparison: Comparison, asked: str | None) -> str | None:
    """The option on the x axis of part 3: the asked one, or τ, the budget, the first number that varies; or none."""
    swept = comparison.swept
    if asked is not None:
        matches = [option for option in swept if asked in (option, option.rpartition(".")[2])]
        if len(matches) == 1:
            return matches[0]
        options = ", ".join(f"{option} ({_list(values)})" for option, values in swept.items())
        wrong = "is ambiguous" if matches else "does not vary over these runs"
        raise ConfigError(
            f"--x {asked}: it {wrong}; " + (f"these options do: {options}" if options else "no option does")
        )
    numeric = [option for option, values in swept.items() if all(_is_number(value) for value in values)]
    return next((option for option in ("program.tau", "program.budget", *numeric) if option in numeric), None)


def _identity(run: Run) -> tuple[Any, ...]:
    return (
        str(run.options.get("method._target_")),
        *sorted((option, repr(value)) for option, value in relevant(run).items()),
    )


def _one_a_seed(bucket: Sequence[Run]) -> tuple[list[Run], dict[Run, str]]:
    """The runs that count: finished ones if there are any, and one a seed; and why each other does not."""
    dropped: dict[Run, str] = {}
    any_complete = any(run.is_complete for run in bucket)
    kept: dict[int, Run] = {}
    for run in sorted(bucket, key=lambda run: (run.seed, -len(run.rounds))):
        if any_complete and not run.is_complete:
            dropped[run] = f"stopped after round {int(run.rounds[-1]) + 1} of {run.planned_rounds}"
        elif run.seed in kept:
            dropped[run] = f"repeats {kept[run.seed].path}"
        else:
            kept[run.seed] = run
    return list(kept.values()), dropped


def _group_order(runs: Sequence[Run]) -> tuple[Any, ...]:
    """Local first, FedPURIN last, by name between; then by option values, numbers as numbers."""
    method = runs[0].method
    rank = 0 if method == "local" else 2 if method.startswith("fedpurin") else 1
    options = relevant(runs[0])
    return (rank, method, *((option, _sort_key(options[option])) for option in sorted(options)))


Named = tuple[Sequence[Run], str, Mapping[str, Any], Mapping[str, Any]]
"""Runs, method, what varies within the method, what varies in the setting."""


def _name(buckets: Sequence[Sequence[Run]]) -> tuple[Group, ...]:
    """Name each group by its method and by what differs among groups of that method, and give it a look."""
    options = [relevant(runs[0]) for runs in buckets]
    methods = [runs[0].method for runs in buckets]
    in_setting = _differing([_select(each, True) for each in options])
    in_method = {
        method: _differing(
            [_select(each, False) for each, name in zip(options, methods, strict=True) if name == method]
        )
        for method in methods
    }
    named: list[Named] = []
    for runs, method, each in zip(buckets, methods, options, strict=True):
        variants = {option: each[option] for option in in_method[method] if option in each}
        setting = {option: each[option] for option in in_setting if option in each}
        named.append((runs, method, variants, setting))
    styles = _styles(named)
    return tuple(
        Group(
            method=method,
            label=_label(method, variants),
            setting=describe(setting),
            options=each,
            variant=variants,
            setting_options=setting,
            runs=tuple(runs),
            style=styles[_label(method, variants)],
        )
        for (runs, method, variants, setting), each in zip(named, options, strict=True)
    )


def _styles(named: Sequence[Named]) -> dict[str, Style]:
    """A look for each label: a hue a method, a shade a level of it; many labels leave all but the best grey."""
    value: dict[str, float] = {}  # more is better
    owner: dict[str, str] = {}
    for runs, method, variants, _ in named:
        label = _label(method, variants)
        best = Spread.of(run.merit for run in runs).mean
        value[label] = max(value.get(label, -math.inf), best if math.isfinite(best) else -math.inf)
        owner[label] = method
    others = [label for label in value if owner[label] != "local"]
    methods = list(dict.fromkeys(owner[label] for label in others))
    best_first = sorted(others, key=lambda label: -value[label])
    leaders = [next(label for label in best_first if owner[label] == method) for method in methods]
    most = MAX_DRAWN - (len(others) < len(value))
    shown = set([*leaders, *(label for label in best_first if label not in leaders)][:most])
    styles = {label: Style().silenced() for label in others if label not in shown}
    for index, method in enumerate(methods):
        levels = [label for label in others if owner[label] == method and label in shown]
        styles |= {label: categorical(index, level, len(levels)) for level, label in enumerate(levels)}
    return styles | {label: LOCAL for label in value if owner[label] == "local"}


def _select(options: Mapping[str, Any], setting: bool) -> dict[str, Any]:
    return {option: value for option, value in options.items() if option.startswith(SETTING) == setting}


def _differing(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names under which these mappings do not all hold the same.

    A detail that only some of the choices read (a solver's gap) counts where its values differ, not where it is absent.
    """
    names = dict.fromkeys(name for each in options for name in each)
    return [
        name
        for name in names
        if len({repr(each.get(name)) for each in options if name in each or name not in DETAILS}) > 1
    ]


def _label(method: str, variants: Mapping[str, Any]) -> str:
    return f"{method} {describe(variants)}" if variants else method


def _sort_key(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if _is_number(value) else (1, 0.0, str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _list(values: Sequence[Any]) -> str:
    texts = [format_value(value) for value in values]
    return ", ".join(texts if len(texts) <= 6 else [*texts[:3], "…", texts[-1]])
