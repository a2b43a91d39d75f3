"""`fedpurin report`: find the runs, compare them, write the page and the files.

Owns the command line and the order of work; exit code 2 with a line for what the user can put right.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from fedpurin.cli.text import Help
from fedpurin.config import ConfigError
from fedpurin.report.comparison import Comparison, compare
from fedpurin.report.figure import Figure, Section
from fedpurin.report.folders import PAGE_MARK, Problem, find_run_folders
from fedpurin.report.look import LOOKS, Look, choose_look
from fedpurin.report.page import write_page
from fedpurin.report.parts import sections
from fedpurin.report.read import BrokenRun, Run, read_run, recorded_error
from fedpurin.report.table import Table

EPILOG = """\
examples
  fedpurin report outputs/2026-01-31/12-00-00          one run
  fedpurin report multirun/2026-01-31/12-00-00         a sweep: every run below the folder
  fedpurin report sweeps/a sweeps/b --out paper        several, side by side
  fedpurin report sweeps/beta --x method.beta          another option as the x axis of part 3
  fedpurin report sweeps/a --value accuracy/sparse     judged by the models as sent
  fedpurin report sweeps/a --value mse --mode min      or by what your validation_step logged
  fedpurin report sweeps/a --style ieee                figures for a column of a paper

what it writes
  DIR/report.html                     the page: one file, works offline, for screen, phone and paper
  DIR/figures/NAME.{pdf,png,svg,csv}  each figure and the numbers behind it
  DIR/tables/NAME.{csv,tex}           each table; the .tex needs \\usepackage{booktabs}

Runs that differ in nothing but the seed are one row: mean ± sample standard deviation. Folders
that are missing or broken are listed on the page and skipped. Runs of one page must share the
data set. `method=local` among the runs adds who gained and who lost.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        ConfigError: no run found, different data sets, a value that none recorded, an x axis that does not vary, a folder
            that cannot be written.
    """
    arguments = _parser().parse_args(argv)
    start = time.perf_counter()
    # matplotlib's own logger warns about fonts of the machine; the page does not depend on them
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if arguments.mode is not None and arguments.value is None:
        raise ConfigError(f"--mode {arguments.mode} belongs to --value: name the value as well")
    look = choose_look(arguments.style, arguments.width, arguments.font, arguments.font_size)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        runs, problems = read_runs([Path(path) for path in arguments.runs], progress)
        comparison = compare(
            runs, problems, arguments.x, _bytes(arguments.at_bytes), value=arguments.value, mode=arguments.mode
        )
        page = write_report(comparison, Path(arguments.out), look, progress)
    for problem in comparison.problems:
        print(f"fedpurin report: {problem}" + (" (skipped)" if problem.skipped else ""), file=sys.stderr)
    size = page.stat().st_size / 2**20
    print(
        f"{page}: {len(runs)} runs in {len(comparison.groups)} groups, {size:.1f} MiB, "
        f"{time.perf_counter() - start:.1f} s"
    )
    return 0


def read_runs(paths: Sequence[Path], progress: Progress | None = None) -> tuple[list[Run], list[Problem]]:
    """Every usable run in or below `paths`, and what has to be said about the others.

    Raises:
        ConfigError: there is no usable run.
    """
    folders, problems = find_run_folders(paths)
    runs = []
    for folder in progress.track(folders, description="Reading runs") if progress else folders:
        try:
            run = read_run(folder)
        except BrokenRun as error:
            problems.append(Problem(folder, str(error) + recorded_error(folder)))
            continue
        runs.append(run)
        problems += [Problem(folder, note, skipped=False) for note in run.notes]
    if not runs:
        raise ConfigError(f"report: no usable run in {', '.join(map(str, paths))}{_why(problems)}")
    return runs, problems


def write_report(
    comparison: Comparison, out: Path, look: Look = LOOKS["plain"], progress: Progress | None = None
) -> Path:
    """Write figures, tables and the page into `out`; returns the page's path. `look` is that of the figures' files.

    Raises:
        ConfigError: the folder cannot be written.
    """
    parts = sections(comparison)
    try:
        files = write_files(parts, out, look, progress)
        stills = {
            item.key: files[f"figures/{item.key}.svg"]
            for part in parts
            for item in part.items
            if isinstance(item, Figure)
        }
        return write_page(comparison, parts, files, stills, out / PAGE_MARK)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror or error}") from None


def write_files(
    parts: Sequence[Section], out: Path, look: Look = LOOKS["plain"], progress: Progress | None = None
) -> dict[str, bytes]:
    """Every figure and table as files; returns their contents by path relative to `out`."""
    from fedpurin.report.draw import draw_files  # matplotlib takes a second; the terminal shows progress by now

    items = [item for part in parts for item in part.items]
    figures = [item for item in items if isinstance(item, Figure)]
    files: dict[str, bytes] = {}
    for figure in progress.track(figures, description="Drawing figures") if progress else figures:
        base = f"figures/{figure.key}"
        files |= {f"{base}.{kind}": content for kind, content in draw_files(figure, look=look).items()}
        files[f"{base}.csv"] = figure.numbers.to_csv().encode()
    for table in items:
        if isinstance(table, Table):
            base = f"tables/{table.key}"
            files |= {f"{base}.csv": table.numbers.to_csv().encode(), f"{base}.tex": table.to_latex().encode()}
    for folder in ("figures", "tables"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    return files


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedpurin report",
        description="Compare finished runs: the paper's table, figures, and one page to look at.",
        epilog=EPILOG,
        formatter_class=Help,
    )
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="run folders, or folders that hold them (a sweep)")
    parser.add_argument("--out", default="report", metavar="DIR", help="where to write (default: ./report)")
    parser.add_argument(
        "--x", metavar="OPTION", help="swept option on the x axis of part 3, e.g. program.tau (default: τ if swept)"
    )
    parser.add_argument(
        "--at-bytes", default="0", metavar="BYTES", help="compare accuracies at this many bytes a client, e.g. 50e6"
    )
    parser.add_argument(
        "--value",
        metavar="NAME",
        help="judge all runs by this recorded value: accuracy/sparse, accuracy/merged, or what validation_step logged "
        "(mse, mse/sparse); default: personalised accuracy, or what trainer.monitor named",
    )
    parser.add_argument(
        "--mode", choices=("max", "min"), help="whether more or less of --value is better, where no run says so"
    )
    looks = parser.add_argument_group("figures' files, for papers")
    looks.add_argument(
        "--style",
        choices=sorted(LOOKS),
        default="plain",
        help="neurips: 5.5 inches, Times 8 pt; ieee: 3.5 inches, Times 8 pt; plain (default): as on the page",
    )
    looks.add_argument("--width", type=float, metavar="INCHES", help="width of every figure, e.g. 7.16 for two columns")
    looks.add_argument("--font", metavar="NAME", help="font family that matplotlib finds, e.g. 'DejaVu Serif'")
    looks.add_argument("--font-size", type=float, metavar="PT", help="size of labels in points")
    return parser


def _bytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"--at-bytes {text}: a number of bytes is required, such as 50e6")
    return value


def _why(problems: Sequence[Problem]) -> str:
    if not problems:
        return ""
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f" ({problems[0]}{more})"
