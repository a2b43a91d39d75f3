"""The page: one HTML file with everything in it.

The file holds the sections as HTML, each figure as an SVG (for print and where scripts are off), the same figures for
plotly.js, the library itself, and the CSV and LaTeX files behind the links. What only scripts need is gzipped; the
browser unpacks it. Nothing is loaded from anywhere. Looks are in page.css, behaviour in page.js.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from fedpurin.report.comparison import Comparison
from fedpurin.report.facts import facts
from fedpurin.report.figure import Figure, Remark, Section
from fedpurin.report.interactive import to_plotly
from fedpurin.report.read import Run, recorded_error
from fedpurin.report.style import DARK, LIGHT, Style
from fedpurin.report.table import Cell, Numbers, Table, format_share

STROKES = {"solid": "", "dash": "6 3", "dot": "2 2", "dashdot": "6 2 2 2"}


def write_page(comparison: Comparison, parts: Sequence[Section], files: Mapping[str, bytes], path: Path) -> Path:
    """Write the page to `path`. `files` are the figures' and tables' files by relative path."""
    figures = {item.key: to_plotly(item) for part in parts for item in part.items if isinstance(item, Figure)}
    attached = {name: content.decode() for name, content in files.items() if name.endswith((".csv", ".tex"))}
    data = json.dumps({"figures": figures, "files": attached, "themes": {"light": LIGHT, "dark": DARK}})
    body = [_header(comparison), _problems(comparison), _contents(parts)]
    body += [_section(number, part, files) for number, part in enumerate(parts, start=1)]
    body.append(_runs(comparison))
    path.write_text(
        "<!doctype html>\n<html lang='en'>\n<head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<meta name='color-scheme' content='light dark'><title>{_title(comparison)}</title>"
        f"<style>{_theme_css()}{_asset('page.css')}</style></head>\n<body>\n<main>\n"
        + "\n".join(body)
        + f"\n</main>\n<script type='text/plain' id='library'>{_packed(_library())}</script>"
        f"\n<script type='text/plain' id='data'>{_packed(data)}</script>"
        f"\n<script>{_asset('page.js')}</script>\n</body>\n</html>\n"
    )
    return path


def _header(comparison: Comparison) -> str:
    methods = list(dict.fromkeys(group.method for group in comparison.groups))
    seeds = {run.seed for run in comparison.runs}
    rounds = sorted({run.planned_rounds for run in comparison.runs})
    counts = [
        _plural(len(comparison.runs), "run"),
        _plural(len(methods), "method"),
        _plural(len(seeds), "seed"),
        f"{'–'.join(map(str, dict.fromkeys((rounds[0], rounds[-1]))))} rounds",
        *([f"{len(comparison.settings)} settings"] if len(comparison.settings) > 1 else []),
        f"written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    ]
    return (
        f"<header><h1>{_title(comparison)}</h1><p class='facts'>{' · '.join(counts)}</p>{_setting(comparison)}</header>"
    )


def _setting(comparison: Comparison) -> str:
    """What all runs had in common, and between what values the rest lay."""
    rows = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>" for name, text in facts(comparison)
    )
    return f"<dl class='setting'>{rows}</dl>"


def _title(comparison: Comparison) -> str:
    return html.escape(f"Personalised federated learning on {comparison.data}")


def _problems(comparison: Comparison) -> str:
    """Folders that were skipped, and files of which not everything was used."""
    if not comparison.problems:
        return ""
    skipped = [problem for problem in comparison.problems if problem.skipped]
    noted = [problem for problem in comparison.problems if not problem.skipped]
    parts = []
    for title, several in ((f"{_plural(len(skipped), 'folder')} skipped", skipped), ("Read in part", noted)):
        if several:
            lines = "".join(
                f"<li><code>{html.escape(str(problem.path))}</code>: {html.escape(problem.what)}</li>"
                for problem in several
            )
            parts.append(f"<h2>{title}</h2><ul>{lines}</ul>")
    return f"<aside class='problems' role='note'>{''.join(parts)}</aside>"


def _contents(parts: Sequence[Section]) -> str:
    links = "".join(
        f"<li><a href='#{part.key}'>{number}. {html.escape(part.title)}</a></li>"
        for number, part in enumerate(parts, 1)
    )
    return f"<nav aria-label='Parts'><ul>{links}<li><a href='#runs'>Runs</a></li></ul></nav>"


def _section(number: int, part: Section, files: Mapping[str, bytes]) -> str:
    items = []
    for item in part.items:
        match item:
            case Figure():
                items.append(_figure(item, files))
            case Table():
                items.append(_table(item))
            case Remark():
                items.append(f"<p class='remark'>{html.escape(item.text)}</p>")
    heading = f"<h2>{number}. {html.escape(part.title)}</h2><p class='about'>{html.escape(part.text)}</p>"
    return f"<section id='{part.key}'>{heading}{''.join(items)}</section>"


def _figure(figure: Figure, files: Mapping[str, bytes]) -> str:
    base = f"figures/{figure.key}"
    still = base64.b64encode(files[f"{base}.svg"]).decode()
    legend = "".join(
        f"<button type='button' aria-pressed='true' data-label='{html.escape(label, quote=True)}'>"
        f"{_swatch(style, area)}{html.escape(label)}</button>"
        for label, style, area in figure.legend_entries()
    )
    panels = "".join(
        f"<div class='panel'>{_panel_title(panel.title)}<div class='plot'></div></div>" for panel in figure.panels
    )
    columns = min(len(figure.panels), figure.columns)
    seen = html.escape(f"{figure.title}. {figure.caption}", quote=True)
    return (
        f"<figure id='{figure.key}'><h3>{html.escape(figure.title)}</h3>"
        f"<div class='live' style='--columns: {columns}'>{panels}</div>"
        + (f"<div class='legend'>{legend}</div>" if legend else "")
        + f"<img class='still' alt='{seen}' src='data:image/svg+xml;base64,{still}'>"
        f"<figcaption>{html.escape(figure.caption)} {_links(base, ('csv', 'svg', 'png'))}</figcaption></figure>"
    )


def _panel_title(title: str) -> str:
    return f"<h4>{html.escape(title)}</h4>" if title else ""


def _table(table: Table) -> str:
    links = _links(f"tables/{table.key}", ("csv", "tex"))
    caption = f"<figcaption>{html.escape(table.caption)} {links}</figcaption>"
    return (
        f"<figure id='{table.key}' class='table'><h3>{html.escape(table.title)}</h3>{table.to_html()}{caption}</figure>"
    )


def _links(base: str, kinds: Sequence[str]) -> str:
    names = {"csv": "Numbers (CSV)", "svg": "SVG", "png": "PNG", "tex": "LaTeX"}
    links = "".join(f"<a href='{base}.{kind}' data-kind='{kind}' download>{names[kind]}</a>" for kind in kinds)
    return f"<span class='links'>{links}</span>"


def _swatch(style: Style, area: bool) -> str:
    colour = f"var(--{style.colour})"
    line = f"stroke='{colour}' stroke-width='2.5' stroke-dasharray='{STROKES[style.dash]}'"
    shape = (
        f"<rect x='4' y='2' width='16' height='10' rx='2' fill='{colour}'/>"
        if area
        else f"<line x1='1' x2='23' y1='7' y2='7' {line}/>"
    )
    return f"<svg width='24' height='14' aria-hidden='true'>{shape}</svg>"


def _runs(comparison: Comparison) -> str:
    """Every run that was read: where it lies, what it is, and whether it counts."""
    label = {run: (group.full_label, "") for group in comparison.groups for run in group.runs}
    rows = []
    for run in comparison.runs:
        name, _ = label.get(run, (run.method, ""))
        rows.append(
            [Cell(str(run.path)), Cell(name), Cell(str(run.seed)), *_run_cells(run, comparison.not_counted.get(run))]
        )
    header = ("Folder", "Group", "Seed", "Rounds", "Accuracy (%)", "Counts")
    table = Table("runs", "Runs", "", header, [("", rows)], Numbers((), ()), num_text_columns=2)
    left_out = len(comparison.not_counted)
    note = f", {left_out} of them not counted" if left_out else ""
    return (
        f"<section id='runs'><h2>Runs</h2><details><summary>{_plural(len(rows), 'run')}{note}</summary>"
        f"{table.to_html()}</details></section>"
    )


def _run_cells(run: Run, why_not: str | None) -> list[Cell]:
    done = int(run.rounds[-1]) + 1
    rounds = str(done) if done >= run.planned_rounds else f"{done} of {run.planned_rounds}"
    return [
        Cell(rounds),
        Cell(format_share(run.last("accuracy/personalized"))),
        Cell((why_not or "yes") + recorded_error(run.path)),
    ]


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _theme_css() -> str:
    def rules(theme: Mapping[str, str]) -> str:
        return "".join(f"--{name}:{colour};" for name, colour in theme.items())

    return f":root{{{rules(LIGHT)}}}@media screen and (prefers-color-scheme: dark){{:root{{{rules(DARK)}}}}}"


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text()


def _library() -> str:
    from plotly.offline import get_plotlyjs

    library: str = get_plotlyjs()
    return library


def _packed(text: str) -> str:
    """Gzip in base64: a third of the library's size, and nothing in it can end the script element."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
