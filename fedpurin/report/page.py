"""The page: one HTML file with everything in it.

The file holds the sections as HTML, each figure as an SVG (for print and where scripts are off), the same figures for
plotly.js, the library itself, and the CSV and LaTeX files behind the links. What only scripts need is gzipped; the
browser unpacks it. Nothing is loaded from anywhere. Structure is in page.html (Jinja2, which escapes what it is given),
looks in page.css, behaviour in page.js.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from fedpurin.report.alt import seen
from fedpurin.report.comparison import Comparison
from fedpurin.report.facts import facts
from fedpurin.report.figure import Figure, Section
from fedpurin.report.interactive import to_plotly
from fedpurin.report.read import Run, recorded_error
from fedpurin.report.style import DARK, LIGHT
from fedpurin.report.table import Cell, Numbers, Table

STROKES = {"solid": "", "dash": "6 3", "dot": "2 2", "dashdot": "6 2 2 2"}
LINK_NAMES = {"csv": "Numbers (CSV)", "svg": "SVG", "png": "PNG", "pdf": "PDF", "tex": "LaTeX"}


def write_page(
    comparison: Comparison,
    parts: Sequence[Section],
    files: Mapping[str, bytes],
    stills: Mapping[str, bytes],
    path: Path,
) -> Path:
    """Write the page to `path`. `files` are the figures' and tables' files by relative path, `stills` SVGs by key."""
    figures = {item.key: to_plotly(item) for part in parts for item in part.items if isinstance(item, Figure)}
    attached = {name: content.decode() for name, content in files.items() if name.endswith((".csv", ".tex"))}
    data = json.dumps({"figures": figures, "files": attached, "themes": {"light": LIGHT, "dark": DARK}})
    path.write_text(
        _environment()
        .from_string(_text("page.html"))
        .render(
            title=f"Personalised federated learning on {comparison.data}",
            counts=_counts(comparison),
            facts=facts(comparison),
            problems=_problems(comparison),
            parts=parts,
            stills={key: base64.b64encode(still).decode() for key, still in stills.items()},
            figure_kinds=[kind for kind in ("csv", "svg", "png", "pdf") if any(name.endswith(kind) for name in files)],
            runs=_runs(comparison),
            runs_summary=_runs_summary(comparison),
            theme_css=Markup(_theme_css()),
            library=packed(library()),
            data=packed(data),
        ),
        encoding="utf-8",
    )
    return path


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"asset": lambda name: Markup(_text(name)), "strokes": STROKES, "link_names": LINK_NAMES}
    environment.filters |= {"seen": seen, "breakable": _breakable}
    environment.tests |= {"figure": _is(Figure), "table": _is(Table)}
    return environment


def _is(kind: type) -> Any:
    return lambda item: isinstance(item, kind)


def _breakable(text: str) -> Markup:
    """Text that may break behind an underscore."""
    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def _counts(comparison: Comparison) -> list[str]:
    methods = list(dict.fromkeys(group.method for group in comparison.groups))
    seeds = {run.seed for run in comparison.runs}
    rounds = sorted({run.planned_rounds for run in comparison.runs})
    return [
        _plural(len(comparison.runs), "run"),
        _plural(len(methods), "method"),
        _plural(len(seeds), "seed"),
        f"{'–'.join(map(str, dict.fromkeys((rounds[0], rounds[-1]))))} rounds",
        *([f"{len(comparison.settings)} settings"] if len(comparison.settings) > 1 else []),
        f"written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    ]


def _problems(comparison: Comparison) -> list[tuple[str, list[Any]]]:
    """Folders that were skipped, and files of which not everything was used, under their headings."""
    if not comparison.problems:
        return []
    skipped = [problem for problem in comparison.problems if problem.skipped]
    noted = [problem for problem in comparison.problems if not problem.skipped]
    return [(f"{_plural(len(skipped), 'folder')} skipped", skipped), ("Read in part", noted)]


def _runs(comparison: Comparison) -> Table:
    """Every run that was read: where it lies, what it is, and whether it counts."""
    head = comparison.judged_by
    label = {run: group.full_label for group in comparison.groups for run in group.runs}
    rows = []
    for run in comparison.runs:
        counts = (comparison.not_counted.get(run) or "yes") + recorded_error(run.path)
        texts = [str(run.path), label.get(run, run.method), counts, str(run.seed), _rounds(run)]
        rows.append([Cell(text) for text in (*texts, head.write(run.last(head.column)))])
    header = ("Folder", "Group", "Counts", "Seed", "Rounds", f"{head.title}{head.unit}")
    return Table("runs", "Runs", "", header, [("", rows)], Numbers((), ()), num_text_columns=3)


def _runs_summary(comparison: Comparison) -> str:
    left_out = len(comparison.not_counted)
    return _plural(len(comparison.runs), "run") + (f", {left_out} of them not counted" if left_out else "")


def _rounds(run: Run) -> str:
    done = int(run.rounds[-1]) + 1
    return str(done) if done >= run.planned_rounds else f"{done} of {run.planned_rounds}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _theme_css() -> str:
    def rules(theme: Mapping[str, str]) -> str:
        return "".join(f"--{name}:{colour};" for name, colour in theme.items())

    return f":root{{{rules(LIGHT)}}}@media screen and (prefers-color-scheme: dark){{:root{{{rules(DARK)}}}}}"


def _text(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def library() -> str:
    """plotly.js."""
    from plotly.offline import get_plotlyjs

    library: str = get_plotlyjs()
    return library


def packed(text: str) -> str:
    """Gzip in base64: small (`benchmarks/report.py`), and nothing in it can end the script element."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
