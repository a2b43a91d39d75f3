"""`fedpurin reproduce [NAME ...|all]`: the studies behind the documentation's numbers, run again and compared.

Owns: the command line, and the order of things: run what is missing, confirm what is committed, write rows, table and
picture. Does not own: what a study is or how it runs (fedpurin/study/).
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import fedpurin
from fedpurin.cli.sweep_file import quote
from fedpurin.cli.text import Help, print_lines
from fedpurin.config import ConfigError
from fedpurin.study.plan import Measured, PlannedRun, Study, chosen_studies, study_names
from fedpurin.study.store import Store, code_version

ROOT = Path(fedpurin.__file__).parents[1]
RESULTS = Path("benchmarks/results/studies")
PAGE = Path("docs/results.md")
IMAGES = Path("docs/images")
INTERRUPTED = 130
NAMED = 12
"""So many missing runs are named one by one."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0 when every run is there and every committed number is confirmed, else 1."""
    given = _parser().parse_args(list(arguments))
    if given.jobs < 1:
        raise ConfigError(f"--jobs {given.jobs} is not possible: it should be at least 1")
    chosen = chosen_studies(given.names)
    studies = [study for study in chosen if isinstance(study, Study)]
    measured = [study for study in chosen if isinstance(study, Measured)]
    store = Store(given.runs / "quick" if given.quick else given.runs, code_version(ROOT))
    planned = {study.name: study.runs(quick=given.quick) for study in studies}
    everything = [run for study in studies for run in planned[study.name]]
    if given.expand:
        for study in measured:
            print(f"{study.name} is no run: fedpurin reproduce {study.name} measures it", file=sys.stderr)
        print_lines(array_line(store, run) for run in left_over(store, everything))
        return 0
    if given.status:
        return show_status(store, planned, measured)
    print_lines(store.others(everything))
    try:
        failed = run_what_is_missing(store, everything, given.jobs)
        codes = [conclude(study, planned[study.name], store, given) for study in studies]
        codes += [conclude_measured(study, store, given) for study in measured]
    except KeyboardInterrupt:
        print(how_to_go_on(store, everything, arguments), file=sys.stderr)
        return INTERRUPTED
    return 1 if failed or any(codes) else 0


def run_what_is_missing(store: Store, everything: Sequence[PlannedRun], jobs: int) -> int:
    """Carry out what has no finished folder; returns how many runs failed."""
    from fedpurin.study.runner import describe, run_missing

    if not everything:
        return 0
    distinct = once(store, everything)
    missing = left_over(store, distinct)
    print(f"{len(distinct)} runs, {len(distinct) - len(missing)} of them done or running elsewhere", flush=True)
    start = time.monotonic()
    outcomes = run_missing(store, missing, jobs, lambda line: print(line, flush=True)) if missing else []
    failed = [outcome for outcome in outcomes if outcome.error]
    if outcomes:
        spent = timedelta(seconds=round(time.monotonic() - start))
        print(f"\n{len(outcomes) - len(failed)} runs in {spent}, {len(failed)} failed")
    for outcome in failed:
        print(f"  {describe(outcome.run)}: {outcome.error} ({store.folder(outcome.run)})")
    return len(failed)


def how_to_go_on(store: Store, everything: Sequence[PlannedRun], arguments: Sequence[str]) -> str:
    """What Ctrl-C leaves behind, and the command that takes it up."""
    distinct = once(store, everything)
    done = sum(store.state(run) == "done" for run in distinct)
    command = shlex.join(["fedpurin", "reproduce", *arguments])
    anew = any("checkpoint.every=0" in run.overrides for run in distinct if store.state(run) != "done")
    begins = " (a run under way begins anew: checkpoint.every=0)" if anew else ""
    return f"fedpurin: interrupted with {done} of {len(distinct)} runs done; go on with {command}{begins}"


def conclude(study: Study, runs: Sequence[PlannedRun], store: Store, given: argparse.Namespace) -> int:
    """Table, confirmation and files of one study; 1 where a run is missing or a committed number is not confirmed."""
    from fedpurin.study import compare, page
    from fedpurin.study.figure import draw
    from fedpurin.study.results import collect, read_results, write_results

    done = [run for run in runs if store.state(run) == "done"]
    results = collect((run, store.folder(run)) for run in done)
    numbers = compare.evaluate(study, results)
    print(f"\n{study.name}: {study.title}")
    if given.quick:
        print(f"{len(done)} of {len(runs)} smoke runs; nothing is written, and these numbers say nothing")
        draw(study, numbers)
        page.section(study, results, numbers, None)
        return 0 if len(done) == len(runs) else 1
    code = 0
    if (committed := read_results(given.out / RESULTS, study.name)) is not None:
        code = print_confirmations(compare.evaluate(study, committed), numbers)
    if len(done) < len(runs):
        print_lines(page.section(study, results, numbers, None).splitlines())
        print_lines(missing_lines(store, runs))
        print(f"{len(runs) - len(done)} of {len(runs)} runs are not there: {PAGE} and {RESULTS} stay as they are")
        return 1
    write_results(given.out / RESULTS, study.name, results)
    image = None
    if (png := draw(study, numbers)) is not None:
        image = f"images/study_{study.name}.png"
        (given.out / IMAGES).mkdir(parents=True, exist_ok=True)
        (given.out / "docs" / image).write_bytes(png)
    page.write_part(given.out / PAGE, study.name, page.section(study, results, numbers, image))
    print(f"written: {given.out / PAGE}, {given.out / RESULTS / study.name}.csv")
    return code


def missing_lines(store: Store, runs: Sequence[PlannedRun]) -> list[str]:
    """A line for each run that is not there, with its state."""
    from fedpurin.study.runner import describe

    states = ((run, store.state(run)) for run in runs)
    lines = [f"  {state}: {describe(run)} ({store.folder(run)})" for run, state in states if state != "done"]
    more = [f"  and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
    return lines[:NAMED] + more


def conclude_measured(study: Measured, store: Store, given: argparse.Namespace) -> int:
    """Measure what is missing, then table, picture and page; 1 where the script failed."""
    from fedpurin.study import measured, page

    print(f"\n{study.name}: {study.title}", flush=True)
    is_done = measured.state_of(study, store) == "done"
    if not is_done and (error := measured.measure(study, store, ROOT, quick=given.quick)):
        print(f"  FAILED: {error} ({measured.folder_of(study, store)})")
        return 1
    if given.quick:
        print("measured on a small case; nothing is written, and these numbers say nothing")
        return 0
    print("  seconds and bytes of this machine, which confirm nothing that another one measured")
    image = measured.keep_image(study, store, given.out / IMAGES)
    page.write_part(given.out / PAGE, study.name, measured.section(study, store, image))
    print(f"written: {given.out / PAGE}")
    return 0


def print_confirmations(committed: object, new: object) -> int:
    """Say of each committed number whether the new runs confirm it; 1 where one is not."""
    from fedpurin.study.compare import Numbers, confirm

    assert isinstance(committed, Numbers)
    assert isinstance(new, Numbers)
    results = list(confirm(committed, new))
    for item in results:
        print(f"  {'confirmed' if item.is_confirmed else 'NOT CONFIRMED'}: {item.what}: {item.detail}")
    wrong = sum(not item.is_confirmed for item in results)
    print(f"{len(results) - wrong} of {len(results)} committed numbers that were run again are confirmed")
    return 1 if wrong else 0


def show_status(store: Store, planned: dict[str, list[PlannedRun]], measured: Sequence[Measured]) -> int:
    """A line a study, its failed runs, and what lies there of other versions; 0 when everything is done."""
    from fedpurin.study.measured import state_of
    from fedpurin.study.runner import describe

    lines, left = [f"code version {store.code}"], 0
    for name, runs in planned.items():
        states = [store.state(run) for run in runs]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
        lines.append(f"{name}: {len(runs)} runs, {counts}")
        for run, state in zip(runs, states, strict=True):
            left += state != "done"
            if state == "failed":
                lines.append(f"  failed: {describe(run)}: {store.error(run)} ({store.folder(run)})")
    for study in measured:
        left += (state := state_of(study, store)) != "done"
        lines.append(f"{study.name}: {' '.join(study.measure)}, {state}")
    print_lines([*lines, *store.others(run for runs in planned.values() for run in runs)])
    return 1 if left else 0


def once(store: Store, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Runs that several studies or cells share, once."""
    return list({store.folder(run): run for run in runs}.values())


def left_over(store: Store, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Runs that are neither done nor at work elsewhere, each once."""
    return [run for run in once(store, runs) if store.state(run) not in ("done", "running")]


def array_line(store: Store, run: PlannedRun) -> str:
    """The run as a line of slurm/array.sbatch; its folder is the one where `reproduce` will look."""
    overrides = [*run.overrides, "resume=auto", f"hydra.run.dir={store.folder(run)}"]
    return " ".join(quote(override) for override in overrides)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedpurin reproduce",
        description="Run the studies behind docs/results.md: what is missing of them, several runs side by side. Then\n"
        "say for each committed number whether the new runs confirm it, and write rows, table and picture.",
        epilog=f"studies: {', '.join(study_names())}\n\n"
        "Examples:\n"
        "  fedpurin reproduce field --jobs 4\n"
        "  fedpurin reproduce --status\n"
        "  fedpurin reproduce all --quick                  a smoke version of everything, on digits\n"
        "  fedpurin reproduce field --expand > field.txt   lines for slurm/array.sbatch\n\n"
        "Finished runs of the same options, code and data are kept; the same command goes on where it stopped.",
        formatter_class=Help,
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="studies; none or `all`: every study")
    parser.add_argument("--quick", action="store_true", help="two rounds of three clients each; writes nothing")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="runs side by side (default 1)")
    parser.add_argument("--status", action="store_true", help="what is done, failed and missing; runs nothing")
    parser.add_argument("--expand", action="store_true", help="print the missing runs as lines for slurm/array.sbatch")
    parser.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs/study"), help="where run folders lie")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=ROOT, help="checkout whose docs and rows are rewritten"
    )
    return parser
