"""A study's part of docs/results.md: what was run, the tables, the sentences, what remains unknown.

Owns: the wording of numbers, and the marks between which the part is rewritten; everything outside the marks is the
author's. Does not own: the numbers (compare.py), the picture (figure.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from fedpurin.report.paired import Interval
from fedpurin.study.compare import CellNumbers, Numbers
from fedpurin.study.plan import Study
from fedpurin.study.results import Results

ONE_SETTING = ""


def begin_mark(name: str) -> str:
    return f"<!-- study {name}: written by fedpurin reproduce {name} -->"


def end_mark(name: str) -> str:
    return f"<!-- end of study {name} -->"


def section(study: Study, results: Results, numbers: Numbers, image: str | None) -> str:
    """The study's part of the page, without marks."""
    parts = [f"## {study.title}", study.question.strip(), _what_was_run(study, results)]
    if study.layout == "matrix":
        parts.append("\n".join(matrix(study, numbers)))
    else:
        for setting in study.all_settings:
            cells = [cell for cell in numbers.cells if cell.setting == setting]
            title = f"### {setting}\n\n" if setting != ONE_SETTING else ""
            parts.append(title + "\n".join(table(study, cells)))
    if image is not None:
        parts.append(f"![{study.title}]({image})")
    if numbers.contrasts:
        parts.append("Differences in percentage points, paired by client and seed, with 95 % intervals:")
        parts.append("\n".join(contrast_table(numbers)))
    if study.unknown:
        parts.append(f"**What remains unknown.** {' '.join(study.unknown.split())}")
    return "\n\n".join(parts)


def table(study: Study, cells: Sequence[CellNumbers]) -> list[str]:
    """A setting's table: one row a variant."""
    reference = study.measured_against
    timed = any(math.isfinite(cell.network_seconds) for cell in cells)
    header = [
        "variant",
        "accuracy, %",
        "seeds' sd, points",
        "worst client, %",
        f"over `{reference}`, points",
        "clients above / below, %",
        "MB sent",
    ]
    rows = [[*header, *(["simulated s"] if timed else [])]]
    for cell in cells:
        is_reference = cell.variant == reference
        rows.append(
            [
                f"`{cell.variant}`" + (f" ({cell.diverged} diverged)" if cell.diverged else ""),
                percent_with(cell.accuracy),
                f"{100 * cell.between_seeds:.1f}" if math.isfinite(cell.between_seeds) else "–",
                f"{100 * cell.worst:.1f}",
                "–" if is_reference else signed_with(cell.gain),
                "–" if is_reference else f"{100 * cell.above:.0f} / {100 * cell.below:.0f}",
                f"{cell.megabytes:.1f}",
                *([f"{cell.network_seconds:.0f}" if math.isfinite(cell.network_seconds) else "–"] if timed else []),
            ]
        )
    return markdown(rows)


def matrix(study: Study, numbers: Numbers) -> list[str]:
    """One table with the settings as columns; the gain over the reference below each accuracy."""
    by_place = {(cell.setting, cell.variant): cell for cell in numbers.cells}
    rows = [["accuracy, %", *study.all_settings]]
    for variant in study.variants:
        row = [f"`{variant}`"]
        for setting in study.all_settings:
            cell = by_place.get((setting, variant))
            gain = f" ({signed(cell.gain.mean)})" if cell is not None and cell.gain.pairs else ""
            row.append("–" if cell is None else f"{100 * cell.accuracy.mean:.1f}{gain}")
        rows.append(row)
    return markdown(rows)


def contrast_table(numbers: Numbers) -> list[str]:
    """Every comparison that the text draws, with its verdict."""
    has_settings = any(item.setting for item in numbers.contrasts)
    rows = [["comparison", *(["setting"] if has_settings else []), "difference", "pairs", "verdict"]]
    for item in numbers.contrasts:
        place = [item.setting] if has_settings else []
        difference = signed_with(item.difference) if item.difference.pairs else "–"
        rows.append([f"`{item.of}` − `{item.against}`", *place, difference, str(item.difference.pairs), item.verdict])
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as a table, the first as its header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def percent_with(interval: Interval) -> str:
    """A share in percent with its interval."""
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def signed_with(interval: Interval) -> str:
    """A difference in points with its interval."""
    return f"{signed(interval.mean)} [{signed(interval.low)}, {signed(interval.high)}]"


def signed(value: float) -> str:
    """A difference in points: `+1.2`, `−0.3`; what rounds to nothing is `0.0`."""
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def rewrite(page: str, name: str, part: str) -> str:
    """The page with the study's part in its marks; a page without them gets them at its end."""
    begin, end = begin_mark(name), end_mark(name)
    marked = f"{begin}\n{part}\n{end}"
    if begin in page and end in page.partition(begin)[2]:
        before, _, rest = page.partition(begin)
        return before + marked + rest.partition(end)[2]
    return f"{page.rstrip()}\n\n{marked}\n" if page.strip() else f"{marked}\n"


def write_part(page: Path, name: str, part: str) -> None:
    text = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(rewrite(text, name, part), encoding="utf-8")


def _what_was_run(study: Study, results: Results) -> str:
    def several(values: Iterable[object]) -> str:
        return ", ".join(sorted({str(value) for value in values}))

    seeds = ", ".join(map(str, study.seeds))
    hours = sum(row.run_seconds for row in results.runs) / 3600
    return (
        f"Run with `fedpurin reproduce {study.name}`: {len(results.runs)} runs, seeds {seeds} "
        f"({len(study.seeds)} a number), {hours:.1f} core hours. Every run: `{' '.join(study.base)}`. Code version "
        f"{several(row.code for row in results.runs)}, data {several(row.data for row in results.runs)}, torch "
        f"{several(row.torch for row in results.runs)}. Intervals: 95 %, bootstrap over seeds and clients. "
        f"Rows: `benchmarks/results/studies/{study.name}.csv`."
    )
