"""Numbers behind a figure, and tables for readers: to CSV and LaTeX (HTML: page.html).

`Numbers` are plain values under named columns. A `Table` is what a reader sees, formatted, with the best in bold,
and carries the numbers that it was made from.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "τ": r"$\tau$", "β": r"$\beta$",
    "α": r"$\alpha$", "σ": r"$\sigma$", "−": "$-$", "–": "--", "†": r"$\dagger$", "×": r"$\times$", "≥": r"$\geq$",
}  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A text that begins so is a formula to a spreadsheet, whoever named a class or a run; an apostrophe makes it text."""


@dataclass(frozen=True)
class Numbers:
    """Rows under named columns. Shares are fractions of one, sizes are bytes, times are seconds."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]

    def to_csv(self) -> str:
        """Comma-separated values with a header; what is not there is empty."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([_plain(name) for name in self.columns])
        writer.writerows([_plain(value) for value in row] for row in self.rows)
        return out.getvalue()


@dataclass(frozen=True)
class Cell:
    """One formatted value."""

    text: str
    is_best: bool = False


@dataclass(frozen=True)
class Table:
    """A table as a reader sees it. `blocks` are groups of rows under a subheading ('' for none)."""

    key: str
    title: str
    caption: str
    header: tuple[str, ...]
    blocks: Sequence[tuple[str, Sequence[Sequence[Cell]]]]
    numbers: Numbers
    num_text_columns: int = 1
    """Columns from the left that hold names and are set flush left."""
    header_groups: Sequence[tuple[str, int]] = ()
    """Headings over the header, each with the number of columns that it spans; '' spans one that has none."""

    def head_spans(self) -> list[tuple[str, int, int]]:
        """Each heading of `header_groups` with its first column and its number of columns."""
        starts = accumulate((span for _, span in self.header_groups), initial=0)
        return [(name, start, span) for (name, span), start in zip(self.header_groups, starts, strict=False)]

    def to_latex(self) -> str:
        """A `table` environment; needs \\usepackage{booktabs}."""
        columns = "l" * self.num_text_columns + "r" * (len(self.header) - self.num_text_columns)
        lines = [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{escape_latex(self.title)}. {escape_latex(self.caption)}}}",
        ]
        lines += [f"  \\label{{tab:{self.key}}}", f"  \\begin{{tabular}}{{{columns}}}", r"    \toprule"]
        if self.header_groups:
            over = [f"\\multicolumn{{{span}}}{{c}}{{{escape_latex(name)}}}" for name, span in self.header_groups]
            rules = [f"\\cmidrule(lr){{{at + 1}-{at + span}}}" for name, at, span in self.head_spans() if name]
            lines += [f"    {' & '.join(over)} \\\\", f"    {' '.join(rules)}"]
        lines.append(f"    {' & '.join(escape_latex(name) for name in self.header)} \\\\")
        for heading, rows in self.blocks:
            lines.append(r"    \midrule")
            if heading:
                lines.append(f"    \\multicolumn{{{len(self.header)}}}{{l}}{{\\emph{{{escape_latex(heading)}}}}} \\\\")
            for row in rows:
                lines.append(f"    {' & '.join(_latex_cell(cell) for cell in row)} \\\\")
        return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def escape_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def format_share(value: float, digits: int = 2) -> str:
    """A fraction of one as percent, without the sign: the header has it."""
    return f"{100 * value:.{digits}f}" if math.isfinite(value) else "–"


def format_bytes(count: float) -> str:
    """A byte count with a decimal prefix, three significant digits."""
    if not math.isfinite(count):
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def unit_of(counts: Iterable[float]) -> tuple[str, float]:
    """The unit of a whole column of bytes, with its size: that of the smallest count that is not zero."""
    smallest = min((count for count in counts if math.isfinite(count) and count > 0), default=0.0)
    units = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
    return next(((name, size) for name, size in reversed(units.items()) if smallest >= size), ("B", 1.0))


def format_in(count: float, size: float) -> str:
    """A count in a given unit, three digits of those from 1 to 100, so that neighbours are as exact."""
    if not math.isfinite(count):
        return "–"
    value = count / size
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return f"\\textbf{{{text}}}" if cell.is_best else text


def _plain(value: Any) -> Any:
    """Whole floats as whole numbers, others with the shortest digits that give them back; nothing for NaN."""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        return int(value) if value.is_integer() and abs(value) < 1e15 else repr(float(value))
    return value
