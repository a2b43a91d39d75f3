"""Options that were asked for and change nothing, each as one line: with this method, program or partition.

Owns: what is said of options that are not read (config.py marks under which choices one is), and how many runs of a
sweep would repeat others for that reason. Does not own: whether a value is possible (config.py). Only options that the
user named are spoken of, never defaults.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedpurin.config import Config
from fedpurin.metrics import VARIANTS
from fedpurin.science import read_only_if

SENDS_MASKS = ("fedpurin", "fedpurin_recommended", "fedcac")
"""The choices of `method` that exchange by masks: only they have two ways to send, and a horizon."""
MASK_METHODS = (*SENDS_MASKS, "fedpurin_feedback")
"""The choices that solve a program over scores."""
HEAD_METHODS = ("fedbabu", "fedpac", "fedper", "fedproto", "fedrep", "fedrod")
"""The choices that treat the head otherwise than the body."""
NORM_METHODS = (
    "dispfl", "fedbn", "fedcac", "fedpm", "fedpurin", "fedpurin_feedback", "fedpurin_recommended", "fedselect",
    "fedspa", "lotteryfl", "sparsyfed", "sub_fedavg",
)  # fmt: skip
"""The choices that treat norms otherwise than other tensors."""
COMPARED = {
    "comparison.fill": ("fedpurin",),
    "comparison.pfedsd_temperature": ("pfedsd",),
    "comparison.pfedsd_lam": ("pfedsd",),
}
"""Options that hand a value to one method (configs/config.yaml)."""
READ_IF = read_only_if(Config)
METRICS = (
    *(f"accuracy/{variant}{end}" for variant in VARIANTS for end in ("", "/worst", "/best")),
    "loss/train", "bytes/up", "bytes/down", "mask/density", "program/gap", "program/seconds", "network/seconds",
    "round/seconds", "clients/participating", "clients/diverged",
)  # fmt: skip
"""Entries of metrics.jsonl that a monitor is meant for."""


@dataclass(frozen=True)
class Situation:
    """The choices that decide which options are read; an empty method is one of the user's own, of which all are."""

    method: str
    data: str
    program: str
    partition: str
    volume: str
    scores: str
    order: str
    checkpoints: int
    executor: str
    store: str
    monitored: bool

    @classmethod
    def of(cls, config: Config) -> Situation:
        return cls(
            method="" if "." in (chosen := config.choices.get("method", "")) else chosen,
            data="custom" if config.data.own else config.data.name,
            program=config.program.name,
            partition=config.partition.name,
            volume=config.partition.volume.name,
            scores=config.scores.source,
            order=config.scores.order,
            checkpoints=config.checkpoint.every,
            executor=config.trainer.executor,
            store=config.clients.store,
            monitored=config.trainer.monitor is not None,
        )


def why_without_effect(option: str, now: Situation) -> str:
    """Why the option (or group) changes nothing; empty where it does."""
    method, first = f"method={now.method}", option.partition(".")[0]
    if now.method and first in ("program", "scores", "horizon") and now.method not in MASK_METHODS:
        return f"{method} exchanges no masks, so it has no program and no scores"
    if now.method == "local" and first in ("exchange", "network"):
        return f"{method} sends nothing"
    if now.method and (why := _unread_by_method(option, now.method)):
        return f"{method} {why}"
    if option in ("scores.source", "scores.gradient_dtype") and now.order in ("random", "magnitude", "update"):
        return f"scores.order={now.order} does not read it (second and first do)"
    if (mark := READ_IF.get(option)) is not None:
        chosen = {
            "data.name": now.data,
            "program.name": now.program,
            "partition.name": now.partition,
            "partition.volume.name": now.volume,
            "scores.source": now.scores,
        }[mark.option]
        group = mark.option.removesuffix(".name") if mark.option.count(".") == 1 else mark.option
        is_read = chosen in (*mark.values, "custom")  # a function of the user's may take any option
        names = [name for name in mark.values if name != "own-data"]
        return "" if is_read else f"{group}={chosen} does not read it ({' and '.join(names)} do)"
    if option in ("checkpoint.keep", "checkpoint.monitor", "checkpoint.asynchronous") and now.checkpoints == 0:
        return "checkpoint.every=0 saves none"
    if option == "trainer.cohort" and now.executor == "serial":
        return "trainer.executor=serial trains one client after the other"
    if option == "clients.folder" and now.store != "disk":
        return f"clients.store={now.store} writes no files (disk does)"
    if option == "trainer.monitor_mode" and not now.monitored:
        return "it belongs to trainer.monitor, and without one a run is judged by its accuracy, of which more is better"
    return ""


def _unread_by_method(option: str, method: str) -> str:
    """Why one of our methods passes over an option of roles, of the horizon, or meant for another method."""
    if option == "roles.head" and method not in HEAD_METHODS:
        return f"treats the head like every other layer ({', '.join(HEAD_METHODS)} do not)"
    if option == "roles.norm" and method not in NORM_METHODS:
        return f"treats norms like every other layer ({', '.join(NORM_METHODS)} do not)"
    if option == "exchange.mode" and method not in SENDS_MASKS:
        return f"sends no masks, so there is one way to send ({', '.join(SENDS_MASKS)} have two)"
    if option == "horizon" and method not in SENDS_MASKS:
        return "has no collaboration horizon"
    if option in COMPARED and method not in COMPARED[option]:
        return f"does not read it ({' and '.join(COMPARED[option])} does)"
    return ""


def remarks(config: Config, overrides: Iterable[str]) -> list[str]:
    """A line for each override of a single run that changes nothing."""
    now, lines = Situation.of(config), []
    for option in map(option_of, overrides):
        if why := why_without_effect(option, now):
            lines.append(f"{option} has no effect: {why}")
    monitor = config.checkpoint.monitor
    if config.checkpoint.every and monitor is not None and monitor not in METRICS and not monitor.startswith("test/"):
        near = difflib.get_close_matches(monitor, METRICS, n=1)
        meant = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(METRICS[:4])} and others"
        lines.append(
            f"checkpoint.monitor={monitor} is no entry of metrics.jsonl that fedpurin writes: unless a callback adds "
            f"it, no best checkpoint is kept{meant}"
        )
    return list(dict.fromkeys(lines))


def sweep_remarks(jobs: Sequence[Sequence[str]]) -> list[str]:
    """What has to be said of a sweep before it starts: options without effect, and how many runs only repeat others.

    Raises:
        ConfigError: a run of the sweep does not compose.
    """
    swept = {option for option in map(option_of, _all(jobs)) if len({_value(job, option) for job in jobs}) > 1}
    situations: dict[tuple[str, ...], Situation] = {}
    without: dict[tuple[str, str], int] = {}
    distinct = set()
    for job in jobs:
        now = _situation(job, situations)
        reasons = {option_of(item): why_without_effect(option_of(item), now) for item in job}
        for option, why in reasons.items():
            if why:
                without[option, why] = without.get((option, why), 0) + 1
        distinct.add(frozenset(item for item in job if not reasons[option_of(item)]))
    lines = [
        f"{option} has no effect in {count} of {len(jobs)} runs: {why}" + (" (and is swept)" if option in swept else "")
        for (option, why), count in without.items()
    ]
    if repeats := len(jobs) - len(distinct):
        lines.append(f"{repeats} of {len(jobs)} runs would repeat others")
    return lines


def option_of(override: str) -> str:
    """The option that an override sets, without Hydra's signs."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def _situation(job: Sequence[str], known: dict[tuple[str, ...], Situation]) -> Situation:
    """Composed once for all runs that make the same choices."""
    from fedpurin.run.compose import compose_config

    deciding = (
        "partition.volume.name",
        "scores.source",
        "scores.order",
        "checkpoint.every",
        "clients.store",
        "trainer.executor",
        "trainer.monitor",
        "program.name",
        "partition.name",
    )
    choices = tuple(
        item
        for item in job
        if ("." not in option_of(item) and option_of(item) != "seed") or option_of(item) in deciding
        or option_of(item).startswith(("model._target_", "method._target_", "hydra.searchpath"))
    )  # fmt: skip
    if choices not in known:
        known[choices] = Situation.of(compose_config(choices)[0])
    return known[choices]


def _value(job: Sequence[str], option: str) -> str | None:
    return next((item for item in job if option_of(item) == option), None)


def _all(jobs: Sequence[Sequence[str]]) -> list[str]:
    return [item for job in jobs for item in job]


def say(lines: Iterable[str]) -> None:
    """Each on standard error, where it does not mix with results."""
    for line in lines:
        print(f"fedpurin: {line}", file=sys.stderr)
