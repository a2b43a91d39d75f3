"""What the benchmarks share: an opened federation, interleaved rounds, and results as JSON, table and figure.

Figures are drawn over the rows' first column. Absolute times belong to one machine; ratios are what to quote.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fedpurin.federation import Federation
from fedpurin.run.build import build
from fedpurin.run.compose import compose_config

RESULTS = Path(__file__).parent / "results"
SILENT = ("~callbacks.progress", "~callbacks.mask_statistics", "checkpoint.every=0")
Row = Mapping[str, Any]


@contextmanager
def opened(overrides: Sequence[str]) -> Iterator[Federation]:
    """A federation that is ready for its rounds, in a folder that is removed afterwards."""
    config, _ = compose_config([*overrides, *SILENT])
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    with tempfile.TemporaryDirectory() as folder:
        federation = build(config, Path(folder) / "run")
        federation._call("on_run_start")
        yield federation


def seconds_of_round(federation: Federation, number: int) -> float:
    start = time.perf_counter()
    federation.run_round(number)
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def write(
    name: str, title: str, command: str, rows: Sequence[Row], *, lines: Sequence[str], y: str, log_x: bool = True
) -> None:
    """`results/NAME.json`, `.md` and `.svg`; `lines` are the columns that are drawn."""
    RESULTS.mkdir(exist_ok=True)
    record = {"command": command, "machine": machine(), "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    columns = list(rows[0])
    table = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    table += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    where = f"{record['machine']['processor']}, {record['machine']['cores']} cores, torch {record['machine']['torch']}"  # type: ignore[index]
    (RESULTS / f"{name}.md").write_text(f"# {title}\n\n`{command}` on {where}.\n\n" + "\n".join(table) + "\n")
    _draw(RESULTS / f"{name}.svg", title, rows, columns[0], lines, y)
    print("\n".join(table))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _draw(path: Path, title: str, rows: Sequence[Row], x: str, lines: Sequence[str], y: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for line in lines:
        known = [(row[x], row[line]) for row in rows if row.get(line) is not None]
        axes.plot([a for a, _ in known], [b for _, b in known], marker="o", label=line)
    axes.set_xscale("log")
    axes.set_xticks([row[x] for row in rows], [f"{row[x]:,}" for row in rows])
    axes.minorticks_off()
    axes.set(xlabel=x, ylabel=y, title=title, ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
