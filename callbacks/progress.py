"""Progress while a run goes, and its table at the end. Speaks on rank 0 only.

On a terminal: one live line with clients trained, accuracy, bytes and time left, which fits from 40 columns on (without the
clients below 60). Elsewhere (a batch job's log): plain lines, at most one every `every_seconds`. A table that is wider than
the terminal is written as lines.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from fedpurin.federation import Federation
from fedpurin.hooks import RunCallback
from fedpurin.methods import Round
from fedpurin.metrics import ACCURACY, VARIANTS, headline, measured_stems
from fedpurin.run.record import summarise_run

MOST_SPARE = 4
"""Columns less that a table is tried with before it becomes lines."""
WIDE_ENOUGH = 60
"""Columns of a terminal whose live line has a place for the clients of the round."""


class Progress(RunCallback):
    """Shows a run's progress and closes it with a summary table."""

    def __init__(self, every_seconds: float = 5.0, console: Console | None = None) -> None:
        self.every_seconds = every_seconds
        self.console = console or Console(highlight=False)
        self._bar: Bar | None = None
        self._task: TaskID
        self._clients_done = 0
        self._clients_total = 0
        self._last_line = 0.0
        self._latest = "starting"

    def on_run_start(self, federation: Federation) -> None:
        if federation.processes.rank != 0:
            self.console.quiet = True
            return
        config, space = federation.config, federation.trainer.space
        kept = [segment.name for segment in space.layout if segment not in space.shared.segments]
        roles = f"head: {space.head or 'none'}" + (f"; stays with the client: {_named(kept)}" if kept else "")
        begun = f", of which {federation.first_round} are done" if federation.first_round else ""
        self.console.print(
            f"{config.name}: {config.partition.num_clients} clients on {config.data.name}, "
            f"{space.layout.size:,} parameters each ({space.shared.size:,} shared), "
            f"{config.trainer.rounds} rounds{begun}; {roles}",
            soft_wrap=not self.console.is_terminal,  # a log keeps one line
        )
        self._first, self._start = federation.first_round, time.monotonic()
        if self.console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(compact=True), console=self.console, expand=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("round", total=config.trainer.rounds, state=self._latest)
            self._bar.update(self._task, completed=federation.first_round)

    def on_round_start(self, federation: Federation, this_round: Round) -> None:
        self._clients_done, self._clients_total = 0, len(this_round.clients)
        if self._bar is not None:
            self._bar.update(
                self._task, description=f"round {this_round.number + 1}/{federation.config.trainer.rounds}"
            )
            self._show_clients()

    def on_client_end(self) -> None:
        self._clients_done += 1
        self._show_clients()

    def _show_clients(self) -> None:
        if self._bar is not None:
            counted = f"client {self._clients_done}/{self._clients_total} "
            state = (counted if self.console.width >= WIDE_ENOUGH else "") + self._latest
            self._bar.update(self._task, state=state)

    def on_round_end(self, federation: Federation, record: Mapping[str, Any]) -> None:
        rounds, done = federation.config.trainer.rounds, record["round"] + 1
        head = headline(federation.config.trainer.monitor, record)
        if (value := record.get(f"{head}/personalized")) is not None:
            self._latest = f"acc {value:.3f}" if head == ACCURACY else f"{head.removeprefix('test/')} {value:.4g}"
        traffic = format_bytes(record.get("bytes/up", 0) + record.get("bytes/down", 0))
        if self._bar is not None:
            self._latest = f"{self._latest.split(' · ')[0]} · {traffic}"
            self._bar.update(self._task, completed=done, state=self._latest)
        elif done == rounds or time.monotonic() - self._last_line >= self.every_seconds:
            self._last_line = time.monotonic()
            spent = time.monotonic() - self._start
            left = spent / (done - self._first) * (rounds - done)
            self.console.print(
                f"round {done}/{rounds}  clients {record['clients/participating']}  {self._latest}  "
                f"{traffic} a round  {timedelta(seconds=round(left))} left",
                soft_wrap=True,
            )

    def on_run_end(self, federation: Federation) -> None:
        self._stop()
        if federation.processes.rank == 0:
            space = federation.trainer.space
            sizes = {"num_parameters": space.layout.size, "num_shared": space.shared.size}
            self.console.print(summary_tables(sizes | summarise_run(federation)))
            self.console.print(f"run folder: {federation.run_dir}", soft_wrap=True)

    def on_run_failed(self) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _named(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


EXPLAINED = {
    "personalized": "each client's own model after local training, on its own test samples",
    "sparse": "that model with its critical parameters only, the others set to zero",
    "merged": "the model that a client starts the next round from, before it trains",
}
"""What the accuracies are of."""


def summary_tables(summary: Mapping[str, Any]) -> Group:
    """A run's final metrics: accuracies over clients, then totals of traffic, network, mask and solver.

    `summary` is what `summary.json` holds. The reduction is against sending the whole model dense both ways, for every
    method alike; what the method itself would send dense stands beside it.
    """
    head = str(summary.get("headline", ACCURACY)).removesuffix("/personalized")
    parts: list[RenderableType] = [_headline_table(summary, head)]
    if 0 < summary.get("clients/participating", 0) == summary.get("clients/diverged"):
        parts.append("every client that took part in the last round diverged: nobody trained in it")
    parts += [
        f"{variant}: {what}" for variant, what in EXPLAINED.items() if summary.get(f"{head}/{variant}") is not None
    ]
    for stem in measured_stems(summary):
        values = [(variant, summary.get(f"{stem}/{variant}")) for variant in VARIANTS]
        told = ", ".join(f"{variant} {value:.4g}" for variant, value in values if value is not None)
        if stem != head and told:
            parts.append(f"{stem.removeprefix('test/')}, mean over clients: {told}")
    parts += ["", _traffic_table(summary), *_further_lines(summary)]
    return Group(*parts)


def _headline_table(summary: Mapping[str, Any], head: str) -> _Fitting:
    rows = []
    for variant in VARIANTS:
        name = f"{head}/{variant}"
        values = [summary.get(key) for key in (name, f"{name}/worst", f"{name}/best")]
        if values[0] is not None:
            rows.append([variant, *("–" if value is None else f"{value:.4f}" for value in values)])
    columns = (head.removeprefix("test/"), "mean over clients", "worst client", "best client")
    return _Fitting(f"after round {summary['rounds']}", columns, rows)


class _Fitting:
    """A table with numbers to the right. Where the terminal is narrow the heads break, never the cells; where even
    that is too wide, every row is a line.
    """

    def __init__(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.title, self.columns, self.rows = title, columns, rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title=self.title, title_justify="left", pad_edge=False)  # two columns of sixty are worth having
        for number, column in enumerate(self.columns):
            width = max([*(len(row[number]) for row in self.rows), *map(len, column.split())])
            table.add_column(column, justify="right" if number else "left", vertical="bottom", min_width=width)
        for row in self.rows:
            table.add_row(*row)
        for spare in range(MOST_SPARE):
            # rich counts too little for a table without outer padding, and cuts the last rule, or values before it
            lines = console.render_lines(table, options.update(width=options.max_width - spare), new_lines=True)
            rules = [text for line in lines if (text := "".join(part.text for part in line).strip()).startswith("┏")]
            if all(rule.endswith("┓") for rule in rules):
                yield from (part for line in lines for part in line)
                return
        yield self.title
        for name, *cells in self.rows:
            yield f"{name}: " + ", ".join(f"{head} {cell}" for head, cell in zip(self.columns[1:], cells, strict=True))


def _traffic_table(summary: Mapping[str, Any]) -> _Fitting:
    count = summary["rounds"]
    share = summary["num_parameters"] / summary["num_shared"] if summary["num_shared"] else 0.0
    ways = {way: (summary[f"total/bytes/{way}"], summary[f"total/bytes/dense_{way}"]) for way in ("up", "down")}
    ways["together"] = (sum(sent for sent, _ in ways.values()), sum(dense for _, dense in ways.values()))
    rows = []
    for way, (sent, dense) in ways.items():
        whole = dense * share
        rows.append([way, format_bytes(sent), format_bytes(whole), _against(sent, whole), format_bytes(dense)])
    columns = ("bytes", "sent", "whole model dense", "against it", "shared part dense")
    return _Fitting(f"all clients, {count} round{'s' if count != 1 else ''}", columns, rows)


def _against(sent: float, dense: float) -> str:
    if not dense:
        return "–"
    change = round(100 * (sent / dense - 1), 1)
    return "the same" if change == 0 else f"{abs(change):.1f} % {'less' if change < 0 else 'more'}"


def _further_lines(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    if summary.get("bytes/up/peers"):
        lines.append(
            "from client to client: a message counts up with its sender, once for each receiver, and down with each "
            "receiver; dense is one model each way between a client and a server"
        )
    if "total/network/seconds" in summary:
        reached = summary.get("network/seconds_to_target")
        target = "" if reached is None else f", target accuracy after {reached:.1f} s"
        lines.append(f"simulated network: {summary['total/network/seconds']:.1f} s{target}")
    if "worst/program/gap" in summary:
        seconds = summary["total/program/seconds"]
        lines.append(
            f"masks: density {summary['mask/density']:.3f} in the last round; programs solved in {seconds:.1f} s, "
            f"worst gap {summary['worst/program/gap']:.1e}"
        )
    return lines


def format_bytes(count: float) -> str:
    """A byte count with a decimal prefix, three significant digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
