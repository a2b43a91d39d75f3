"""The setting of the runs in short: data, partition, samples, model, training, horizon, code revision.

Owns: which recorded options a reader needs to know what a page is about. Values that differ among the runs are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fedpurin.report.comparison import Comparison
from fedpurin.report.headline import Headline
from fedpurin.report.named import format_value
from fedpurin.report.read import Run
from fedpurin.report.relevance import relevant

MAX_VALUES = 4


def facts(comparison: Comparison) -> list[tuple[str, str]]:
    """Name and text of each fact, over the runs that are counted (all others may be another setting)."""
    runs = [run for group in comparison.groups for run in group.runs]
    head = comparison.judged_by
    known = {
        "Judged by": "" if head == Headline() else f"{head.subject}{head.direction}",
        "Data": _list(run.data for run in runs),
        "Partition": _list(map(_partition, runs)),
        "Clients": _list(map(_clients, runs)),
        "Training samples": _list(_samples(run, "train") for run in runs),
        "Test samples": _list(_samples(run, "test") for run in runs),
        "Model": _list(map(_model, runs)),
        "Rounds": _list(str(run.planned_rounds) for run in runs),
        "Local epochs": _list(_option("trainer.local_epochs")(run) for run in runs),
        "Batch size": _list(_option("trainer.batch_size")(run) for run in runs),
        "Learning rate": _list(_option("model.lr")(run) for run in runs),
        "Horizon β": _list(_option("method.beta")(run) for run in runs),
        "Seeds": _list(str(seed) for seed in sorted({run.seed for run in runs})),
        "Code": _list(run.revision for run in runs),
    }
    return [(name, text) for name, text in known.items() if text]


def _list(texts: Iterable[str]) -> str:
    several = [text for text in dict.fromkeys(texts) if text]
    more = [f"and {len(several) - MAX_VALUES} more"] if len(several) > MAX_VALUES else []
    return ", ".join([*several[:MAX_VALUES], *more])


def _option(name: str) -> Callable[[Run], str]:
    return lambda run: format_value(run.options[name]) if run.options.get(name) is not None else ""


def _partition(run: Run) -> str:
    used = relevant(run)
    name = str(used.get("partition.name", ""))
    for option, symbol in (("partition.alpha", "α"), ("partition.classes_per_client", "classes a client ")):
        if used.get(option) is not None:
            name += f" {symbol}={format_value(used[option])}"
    return name.replace("client =", "client: ")


def _clients(run: Run) -> str:
    count, chosen = run.options.get("partition.num_clients"), run.options.get("trainer.clients_per_round")
    if count is None:
        return str(len(run.client_ids)) if len(run.client_ids) else ""
    return f"{count}, {chosen} a round" if chosen is not None else str(count)


def _samples(run: Run, split: str) -> str:
    return "" if run.partition is None else f"{int(getattr(run.partition, split).sum()):,}"


def _model(run: Run) -> str:
    if chosen := run.options.get("model.backbone._target_"):
        return str(chosen).rpartition(".")[2]
    return str(run.options.get("model._target_", "")).rpartition(".")[2]
