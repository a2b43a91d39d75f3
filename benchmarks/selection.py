"""Seconds, gap and memory of the critical-parameter program, against introselect and against SCIP without reduction.

    python benchmarks/selection.py                     all of it, about five minutes on two cores
    python benchmarks/selection.py --networks resnet8  one network
    python benchmarks/selection.py --million           also 10^6 binaries unreduced (several minutes more)

Writes selection.md (the table) and selection.svg (seconds against parameters) into --out. Every solve and the
introselect that it is compared with run in this one process, on the same scores and the same threads; times are
medians. Introselect is `numpy.partition` of every tensor: it finds the thresholds, and writes no mask.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lightning_modules.backbones as backbones
from fedpurin.config import ProgramConfig, ScoresConfig
from fedpurin.selection import Certificate, Selector, perturbation_scores
from fedpurin.space import Layout, ParameterSpace

NETWORKS = ("resnet8", "resnet18", "resnet50", "vit_b_16")
PROGRAMS = (
    ("layerwise", ProgramConfig()),
    ("global", ProgramConfig(name="global")),
    ("budget 10 %", ProgramConfig(name="budget", budget=0.1)),
    ("budget 2 %", ProgramConfig(name="budget", budget=0.02)),
)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    scores: str
    num_parameters: int
    program: str
    seconds: float
    certificate: Certificate
    peak_share: float
    """Peak memory beyond the scores, as a multiple of them."""
    introselect_seconds: float


def main() -> None:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for network in filter(None, arguments.networks.split(",")):
        layout, initialised = score_network(network)
        heavy = layout.embed(draw_heavy(layout.size))
        for kind, scores in (("initialised", initialised), ("heavy-tailed", heavy)):
            for name, program in PROGRAMS:
                rows.append(measure(f"{network}, {kind}", layout, scores, name, program, arguments.repeats))
                print(format_row(rows[-1]), flush=True)
        del initialised, heavy
    sizes = [int(size) for size in arguments.unreduced.split(",") if size] + [10**6] * arguments.million
    reduced, unreduced = [], []
    for size in sizes:
        layout = Layout.from_sizes([size // 2, size // 4, size - size // 2 - size // 4])
        scores = layout.embed(draw_heavy(size))
        for name in ("layerwise", "budget"):
            for reduce, rows_of_kind in ((True, reduced), (False, unreduced)):
                program = ProgramConfig(name=name, reduce=reduce, time_limit=120.0)  # type: ignore[arg-type]
                repeats = arguments.repeats if reduce or size <= 10_000 else 1
                label = name if reduce else f"{name}, reduce: false"
                rows_of_kind.append(measure("three tensors", layout, scores, label, program, repeats))
                print(format_row(rows_of_kind[-1]), flush=True)
    write_table(arguments.out / "selection.md", rows + reduced + unreduced, arguments.repeats)
    draw_figure(arguments.out / "selection.svg", rows + reduced, unreduced)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="(default: %(default)s)")
    parser.add_argument("--unreduced", default="1000,10000,100000", help="sizes (default: %(default)s)")
    parser.add_argument("--million", action="store_true", help="unreduced at 10^6 too")
    parser.add_argument("--repeats", type=int, default=5, help="solves a median is taken of (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="(default: %(default)s)")
    return parser.parse_args()


def score_network(name: str) -> tuple[Layout, Tensor]:
    """Scores of a freshly initialised network after one backward pass on two random images."""
    torch.manual_seed(0)
    module = getattr(backbones, name)(num_classes=1000 if name in ("resnet50", "vit_b_16") else 10)
    for child in module.modules():  # torchvision's ViT starts with a head of zeros, behind which every gradient is null
        if isinstance(child, torch.nn.Linear) and not child.weight.any():
            torch.nn.init.normal_(child.weight, std=0.02)
    space = ParameterSpace(module, shares=lambda segment: not segment.is_norm)
    vector = space.bind(module)
    side = 224 if name == "vit_b_16" else 64
    logits = module(torch.randn(2, 3, side, side))
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    gradient = space.gather_gradients(module)
    return space.shared, perturbation_scores(vector[: space.shared.length], gradient, ScoresConfig())


def draw_heavy(size: int) -> Tensor:
    """Log-normal scores: the largest hundredth holds nine tenths of the sum."""
    values = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    return torch.from_numpy(np.exp(3.0 * values - 10.0, out=values))


def measure(label: str, layout: Layout, scores: Tensor, name: str, program: ProgramConfig, repeats: int) -> Row:
    selector = Selector(layout, program)
    reset_peak()
    before = read_memory("VmRSS")
    if program.reduce:
        selector.solve(scores)  # compiles the statement, and the kernels if their cache is cold
    seconds, certificate = time_calls(lambda: selector.solve(scores).certificate, repeats)
    peak = (read_memory("VmHWM") - before) / (4 * layout.length)
    introselect, _ = time_calls(lambda: introselect_tensors(layout, scores), min(repeats, 3))
    return Row(label, layout.size, name, seconds, certificate, peak, introselect)


def introselect_tensors(layout: Layout, scores: Tensor) -> None:
    """Exact selection without a solver: numpy's introselect, tensors dealt to as many threads as torch uses."""
    values = scores.numpy()

    def select(index: int) -> None:
        segment = layout.segments[index]
        np.partition(values[segment.slice], segment.size // 2)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(select, range(len(layout))))


def time_calls(call: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Seconds and result of the median call (of an even number, the slower of the middle two)."""
    calls = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        calls.append((time.perf_counter() - start, result))
    return sorted(calls, key=lambda timed: timed[0])[repeats // 2]


def reset_peak() -> None:
    """Give freed memory back, and let the kernel forget this process's peak resident size (Linux, glibc)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def read_memory(field: str) -> int:
    """A field of /proc/self/status, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


HEADER = (
    "scores", "parameters", "program", "seconds", "of it building", "of it solver", "introselect s", "ratio",
    "core", "gap", "peak memory",
)  # fmt: skip


def format_row(row: Row) -> str:
    proof = row.certificate
    cells = (
        row.scores, f"{row.num_parameters:,}", row.program, f"{row.seconds:.3f}", f"{proof.building_seconds:.3f}",
        f"{proof.solver_seconds:.3f}", f"{row.introselect_seconds:.3f}",
        f"{row.seconds / row.introselect_seconds:.2f}", f"{proof.core_size:,}", f"{proof.gap:.1e}",
        f"{row.peak_share:.2f} ×" if row.num_parameters >= 10**7 else "–",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def write_table(path: Path, rows: list[Row], repeats: int) -> None:
    lines = [
        f"Medians of {repeats} solves after a first one, {torch.get_num_threads()} threads, numpy {np.__version__}. "
        "Introselect: `numpy.partition` of every tensor at its half, on the same threads, without writing a mask. "
        "Peak memory: beyond the scores, as a multiple of them, the first solve included; below 10 million parameters "
        "it is the solver's own tens of MiB.",
        "",
        f"| {' | '.join(HEADER)} |",
        f"|{' --- |' * 3}{' ---: |' * (len(HEADER) - 3)}",
        *map(format_row, rows),
    ]
    path.write_text("\n".join(lines) + "\n")


def draw_figure(path: Path, reduced: list[Row], unreduced: list[Row]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    styles = {"layerwise": ("#0072B2", "o"), "budget": ("#D55E00", "s")}  # told apart with any colour vision
    for rows, line, suffix in ((reduced, "-", "reduced"), (unreduced, "--", "one binary a parameter")):
        for name, (colour, marker) in styles.items():
            points: dict[int, list[float]] = {}
            for row in rows:
                if row.program.split(",")[0].split()[0] == name:
                    points.setdefault(row.num_parameters, []).append(row.seconds)
            if points:
                sizes = sorted(points)
                middles = [statistics.median(points[size]) for size in sizes]
                axes.plot(sizes, middles, line, color=colour, marker=marker, label=f"{name}, {suffix}")
    points = {}
    for row in reduced:
        points.setdefault(row.num_parameters, []).append(row.introselect_seconds)
    sizes = sorted(points)
    middles = [statistics.median(points[size]) for size in sizes]
    axes.plot(sizes, middles, ":", color="#555555", label="introselect (no solver, no proof)")
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="seconds a solve")
    axes.grid(which="major", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
