"""A round's masks as pictures for experiment trackers: how dense each tensor's mask is, and whose masks overlap.

Drawn off the main thread beside a running simulation, so nothing here touches matplotlib's global state, and pictures
leave as pixels, which W&B and TensorBoard take as they are. Does not own: the numbers (callbacks/mask_statistics.py),
when pictures are drawn (wandb_run.py), the report's figures. Matplotlib is imported only in functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedpurin.report.style import LIGHT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]
MAX_NAMED = 40
"""Up to here every tensor has a line with its name; more are drawn as a skyline, named by block."""
MAX_TICKS = 24
DPI = 130
WIDTH_INCHES = 7.2


def to_pixels(figure: Figure) -> Pixels:
    """The figure as height × width × RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def density_figure(
    names: Sequence[str], sizes: Sequence[int], density: Sequence[float], overall: float, number: int
) -> Figure:
    """The share of each shared tensor that the participants' masks select on average, in the network's order.

    Args:
        names, sizes, density: one a tensor; density in [0, 1].
        overall: density of all tensors together.
        number: the round.
    """
    draw = _draw_named if len(names) <= MAX_NAMED else _draw_skyline
    figure = draw(names, sizes, density, overall)
    figure.suptitle(f"Mask density, round {number + 1}", fontsize=10.5, fontweight="bold", color=LIGHT["ink"])
    return figure


def overlap_figure(ids: Sequence[int], overlap: Sequence[Sequence[float | None]], number: int) -> Figure:
    """The participants' mask overlaps as a matrix; the diagonal stays empty."""
    figure = _new_figure(5.2, 4.5)
    axis = figure.add_subplot()
    matrix = np.array([[np.nan if value is None else value for value in row] for row in overlap], dtype=float)
    image = axis.imshow(matrix, cmap="viridis", interpolation="nearest")
    bar = figure.colorbar(image, shrink=0.9)
    bar.set_label("overlap $O_{ij}$", fontsize=8.5)
    bar.ax.tick_params(labelsize=7.5)
    shown = range(0, len(ids), -(-len(ids) // MAX_TICKS))
    labels = [str(ids[index]) for index in shown]
    axis.set_xticks(shown, labels, fontsize=7.5)
    axis.set_yticks(shown, labels, fontsize=7.5)
    axis.set_xlabel("client j", fontsize=8.5)
    axis.set_ylabel("client i", fontsize=8.5)
    figure.suptitle(f"Mask overlap, round {number + 1}", fontsize=10.5, fontweight="bold", color=LIGHT["ink"])
    return figure


def _draw_named(names: Sequence[str], sizes: Sequence[int], density: Sequence[float], overall: float) -> Figure:
    """A horizontal bar a tensor, first layer on top, with its name, size and share."""
    count = len(names)
    figure = _new_figure(WIDTH_INCHES, 1.15 + 0.23 * count)
    axis = figure.add_subplot()
    axis.barh(range(count), density, height=0.72, color=_colours(names))
    for row, share in enumerate(density):
        axis.text(share + 0.008, row, f"{share:.1%}", va="center", fontsize=7.5, color=LIGHT["ink"], zorder=3,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # fmt: skip
    labels = [f"{name}  {size:,}" for name, size in zip(names, sizes, strict=True)]
    axis.set_yticks(range(count), labels, fontsize=7.5)
    axis.tick_params(axis="y", length=0)
    axis.set(ylim=(count - 0.4, -0.6), xlim=(0, 1.09))
    axis.set_xlabel("selected share of the tensor's parameters", fontsize=8.5)
    axis.xaxis.set_major_formatter(_percent())
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axis.axvline(overall, color=LIGHT["c1"], linestyle=(0, (5, 2)), linewidth=1.3, zorder=2)
    _finish(figure, names, sizes, overall, grid="x")
    return figure


def _draw_skyline(names: Sequence[str], sizes: Sequence[int], density: Sequence[float], overall: float) -> Figure:
    """Thin bars side by side over the tensors' sizes, named and shaded by block of the network."""
    count = len(names)
    figure = _new_figure(WIDTH_INCHES * 1.25, 4.6)
    axis, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axis.bar(range(count), density, width=0.86, color=_colours(names))
    axis.axhline(overall, color=LIGHT["c1"], linestyle=(0, (5, 2)), linewidth=1.3)
    axis.set(ylim=(0, 1.02), xlim=(-1, count))
    axis.set_ylabel("selected share", fontsize=8.5)
    axis.yaxis.set_major_formatter(_percent())
    below.scatter(range(count), sizes, s=7, color=_colours(names))
    below.set(yscale="log", ylim=(min(sizes) / 2, max(sizes) * 2))
    below.set_ylabel("parameters", fontsize=8.5)
    ticks: list[float] = []
    labels: list[str] = []
    for index, (block, first, last) in enumerate(_blocks(names)):
        if index % 2:
            for panel in (axis, below):
                panel.axvspan(first - 0.5, last + 0.5, color=LIGHT["grid"], alpha=0.45, linewidth=0, zorder=0)
        middle = (first + last) / 2
        if not ticks or middle - ticks[-1] > count / 45:  # narrower than a line of text: without a name
            ticks.append(middle)
            labels.append(block)
    below.set_xticks(ticks, labels, fontsize=7.5, rotation=35, ha="right", rotation_mode="anchor")
    for panel in (axis, below):
        panel.tick_params(axis="x", length=0)
    _finish(figure, names, sizes, overall, grid="y")
    return figure


def _finish(figure: Figure, names: Sequence[str], sizes: Sequence[int], overall: float, *, grid: Any) -> None:
    """Grid, frame and legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    for axis in figure.axes:
        axis.grid(axis=grid, color=LIGHT["grid"], linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=7.5)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    dashed = Line2D([], [], color=LIGHT["c1"], linestyle=(0, (5, 2)), linewidth=1.3)
    entries: list[tuple[Any, str]] = [(dashed, f"all {sum(sizes):,} shared parameters: {overall:.1%}")]
    kinds = {"weights": LIGHT["c0"], "biases": LIGHT["c5"]}
    used = set(_colours(names))
    entries += [(Patch(color=colour), kind) for kind, colour in kinds.items() if colour in used]
    figure.legend(*zip(*entries, strict=True), loc="outside lower center", ncols=3, fontsize=7.5, frameon=False)


def _colours(names: Sequence[str]) -> list[str]:
    return [LIGHT["c5"] if name.endswith("bias") else LIGHT["c0"] for name in names]


def _blocks(names: Sequence[str]) -> list[tuple[str, int, int]]:
    """Runs of tensors of the same part of the network: name, first and last index."""
    paths = [name.split(".")[:-1] for name in names]
    blocks: list[tuple[str, int, int]] = []
    for depth in (1, 2, 3, 4, 5):  # as coarse as still tells the bulk of the network apart
        runs = [list(run) for _, run in groupby(range(len(names)), key=lambda index: paths[index][:depth])]
        blocks = [(_block_name(paths[run[0]][:depth]), run[0], run[-1]) for run in runs]
        if max(map(len, runs)) <= len(names) / 2:
            break
    return blocks


def _block_name(path: Sequence[str]) -> str:
    """The path's end; a number alone would say nothing."""
    return ".".join(path[-2:] if path and path[-1].isdecimal() else path[-1:])


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1, decimals=0)
