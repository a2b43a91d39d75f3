"""`fedpurin partition …`: how the samples are dealt, as a table and a figure, without training.

Owns: the rich table, the bubble chart, the command's own option `--out`. Does not own: the partition
(partitions.py) and overrides, which are those of a run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpurin.cli.text import Help
from fedpurin.config import Config, ConfigError
from fedpurin.data.dataset import LabelledData
from fedpurin.data.partitions import Partition, partition
from fedpurin.data.sources import load

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

DEFAULT_FIGURE = Path("partition.png")
FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
_SHOWN_CLASSES = 5  # the most frequent classes that a row names when a column each would not fit
# Blue and orange of Okabe & Ito, and disc against ring: told apart with any colour vision, and without colour.
_TRAIN_STYLE: dict[str, Any] = {"color": "#0072B2", "alpha": 0.6, "linewidths": 0, "label": "training"}
_TEST_STYLE: dict[str, Any] = {"facecolors": "none", "edgecolors": "#D55E00", "linewidths": 0.8, "label": "test"}


def main(arguments: Sequence[str]) -> int:
    """`fedpurin partition [--out FILE] [overrides]`; returns the exit code.

    Raises:
        ConfigError: as a run's overrides do, or a figure that cannot be written.
    """
    from fedpurin.run.compose import compose_config

    parser = argparse.ArgumentParser(
        prog="fedpurin partition",
        description="Show how a partition deals the samples to clients, as a table and a figure; nothing is trained.",
        epilog="Examples:\n"
        "  fedpurin partition partition.alpha=0.1\n"
        "  fedpurin partition data=fashion_mnist partition.num_clients=20 --out deal.svg",
        formatter_class=Help,
    )
    parser.add_argument("overrides", metavar="option=value", nargs="*", help="options as for a run")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        default=DEFAULT_FIGURE,
        help=f"the figure; ends in {', '.join(FIGURE_SUFFIXES)} (default: %(default)s)",
    )
    given = parser.parse_intermixed_args(list(arguments))
    overrides, out = given.overrides, given.out
    config, _ = compose_config(overrides)
    show_partition(config, out)
    return 0


def show_partition(config: Config, out: Path | None) -> None:
    """Print who holds what and, unless `out` is None, draw it into that file (PNG, SVG or PDF).

    Raises:
        ConfigError: data or partition as in a run, or a figure that cannot be written.
    """
    from rich.console import Console

    if out is not None and out.suffix not in FIGURE_SUFFIXES:
        raise ConfigError(f"--out {out} is not possible: the figure's file ends in {', '.join(FIGURE_SUFFIXES)}")
    data = load(config.data, config.seed)
    parts = partition(config.partition, data, config.seed)
    print_partition(parts, data, Console())
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            draw_partition(parts, data, out)
        except OSError as error:
            raise ConfigError(f"--out {out} cannot be written: {error.strerror or error}") from None
        print(f"figure: {out}")


def print_partition(parts: Partition, data: LabelledData, console: Console) -> None:
    """Print a column a class where that fits the console's width, else the most frequent classes of each client."""
    table = _class_table(parts, data)
    unbounded = console.options.update(width=100_000)
    if console.measure(table, options=unbounded).minimum > console.width:
        table = _main_classes_table(parts, data)
    console.print(table)
    console.print(f"{data.name}: {parts.summary()}", highlight=False)


def _class_table(parts: Partition, data: LabelledData) -> Table:
    """Two lines a client, training above test."""
    from rich.table import Table

    table = Table(title=f"{data.name}: samples of each class", title_justify="left", box=None, pad_edge=False)
    table.add_column("client", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("all", justify="right", no_wrap=True)
    width = max(4, len(str(parts.class_counts.sum(axis=0).max())))
    for name in data.strata:  # a long name folds over several lines; a number never does
        table.add_column(name, justify="right", overflow="fold", min_width=width, max_width=max(width, 8))
    rows = [
        (str(client), *both)
        for client, both in enumerate(zip(parts.class_counts, parts.test_class_counts, strict=True))
    ]
    rows.append(("all", parts.class_counts.sum(axis=0), parts.test_class_counts.sum(axis=0)))
    for client, train, test in rows:
        cells = [f"{_number(a)}\n[dim]{_number(b)}[/dim]" for a, b in zip(train, test, strict=True)]
        style = "bold" if client == "all" else None
        table.add_row(client, "train\n[dim]test[/dim]", f"{train.sum()}\n[dim]{test.sum()}[/dim]", *cells, style=style)
    return table


def _number(count: int) -> str:
    return str(count) if count else "·"


def _main_classes_table(parts: Partition, data: LabelledData) -> Table:
    from rich.table import Table

    table = Table(title=f"{data.name}: {len(data.strata)} classes", title_justify="left", box=None, pad_edge=False)
    for name in ("client", "train", "test", "classes"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("most frequent (training/test samples)", overflow="fold")
    for client, (counts, test) in enumerate(zip(parts.class_counts, parts.test_class_counts, strict=True)):
        held = int((counts > 0).sum())
        first = np.argsort(-counts, kind="stable")[: min(held, _SHOWN_CLASSES)]
        shown = ", ".join(f"{data.strata[label]} {counts[label]}/{test[label]}" for label in first)
        rest = f", {held - len(first)} more" if held > len(first) else ""
        table.add_row(str(client), str(counts.sum()), str(test.sum()), str(held), shown + rest)
    return table


def draw_partition(parts: Partition, data: LabelledData, out: Path) -> None:
    """Bubble chart of clients and classes: a disc's area is the share of the client's samples in that class.

    The disc is training, the ring test: where the two proportions agree, they coincide. The longer of the two
    axes lies across.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

    clients_across = parts.num_clients >= len(data.strata)
    names = ("client", "class") if clients_across else ("class", "client")
    train, test = (
        counts / counts.sum(axis=1, keepdims=True) for counts in (parts.class_counts, parts.test_class_counts)
    )
    width, height = train.shape if clients_across else train.shape[::-1]
    cell = min(0.34, 14.0 / width)  # inches
    figure = Figure(figsize=(max(4.5, cell * width + 2.4), max(2.5, cell * height + 1.4)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    largest = max(train.max(), test.max())
    for shares, style in ((train, _TRAIN_STYLE), (test, _TEST_STYLE)):
        client, label = np.nonzero(shares)
        across, up = (client, label) if clients_across else (label, client)
        area = (72 * cell * 0.9) ** 2 / largest  # points²: the largest disc fills its cell
        axes.scatter(across, up, s=area * shares[client, label], **style)
    axes.set(xlabel=names[0], ylabel=names[1], xlim=(-0.7, width - 0.3), ylim=(height - 0.3, -0.7))
    for axis, name, length in ((axes.xaxis, names[0], width), (axes.yaxis, names[1], height)):
        step = -(-length // 25)
        labels = data.strata if name == "class" else [str(client) for client in range(length)]
        axis.set_ticks(range(0, length, step), labels[::step])
    if max(map(len, data.strata)) > 2 and not clients_across:
        axes.tick_params(axis="x", labelrotation=90)
    axes.set_title(f"{data.name}: {parts.summary()}\nlargest disc: {largest:.0%} of a client", fontsize=8, loc="left")
    axes.grid(linewidth=0.3, alpha=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes(np.array([40.0]))
    figure.savefig(out, dpi=150)
