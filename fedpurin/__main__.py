"""The `fedpurin` command: compose, validate, build, run; and the door to its other commands.

Hydra runs the plain command and sweeps. Overrides are composed and checked here first, because Hydra ends with
exit code 1 and a traceback where a user's mistake deserves code 2 and a line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpurin.cli.help import COMMANDS, check_command, help_text
from fedpurin.cli.packages import find_own_packages, hidden_companions
from fedpurin.cli.text import print_lines, show_what_can_be_shown
from fedpurin.config import ConfigError
from fedpurin.run import starting
from fedpurin.run.folder import expand_home
from fedpurin.run.lock import is_first_process
from fedpurin.run.place import FolderError, Place
from fedpurin.run.start import EveryoneDivergedError, run

if TYPE_CHECKING:
    from fedpurin.cli.multirun import Multirun

FULL_ERROR = "HYDRA_FULL_ERROR"
"""Hydra's variable: tracebacks whole, and raised."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 the run failed, 2 a mistake in what was asked for)."""
    arguments = expand_home(sys.argv[1:] if argv is None else argv)
    sys.argv[1:] = arguments  # Hydra and Fabric's launcher read them there
    if argv is None:
        starting.begin(is_first_process)
    show_what_can_be_shown()
    find_own_packages()
    if (hidden := hidden_companions()) is not None:
        print(f"fedpurin: {hidden}", file=sys.stderr)
    if arguments[:1] == ["help"] and arguments[1:] and arguments[1] in COMMANDS:
        arguments = [arguments[1], "--help"]
    is_command, is_help = bool(arguments) and arguments[0] in COMMANDS, arguments in (["--help"], ["-h"], ["help"])
    try:
        if not is_command and not is_help:
            check_command(arguments)
        if loads_torch(arguments) and is_first_process():
            print("fedpurin: loading PyTorch ...", file=sys.stderr, flush=True)
        if is_command:
            return _command(arguments[0])(arguments[1:])
        if is_help:
            print_lines(help_text().splitlines())
        elif arguments == ["--version"]:
            from fedpurin import __version__

            print(f"fedpurin {__version__}")
        else:
            train(arguments)
    except ConfigError as error:
        return _report_error(error, code=2)
    except (FolderError, EveryoneDivergedError) as error:
        return _report_error(error, code=1)
    except RuntimeError as error:
        if not _is_lost_rank(error):
            raise
        return _report_error(error, code=1)
    except KeyboardInterrupt:
        print("fedpurin: interrupted", file=sys.stderr)
        return 130
    return 0


def loads_torch(arguments: Sequence[str]) -> bool:
    """Whether seconds will pass before anything can be said: the user's first look at a new machine takes many."""
    if "torch" in sys.modules or {"-h", "--help", "help", "--version"} & set(arguments):
        return False
    if arguments and arguments[0] in COMMANDS:
        return len(arguments) > 1 and arguments[0] in ("partition", "select", "resume", "export")
    return not {"--cfg", "-c", "--info", "-i", "--hydra-help"} & set(arguments)


def train(arguments: Sequence[str]) -> None:
    """The plain command: overrides, and Hydra's own flags where there are any."""
    from fedpurin.cli.multirun import Multirun, keep_folders, sweep_folder
    from fedpurin.cli.sweep import before_sweep, check_jobs, planned_jobs, search_path
    from fedpurin.run.compose import compose_config, run_overrides
    from fedpurin.run.effects import remarks, say
    from fedpurin.run.folder import as_first, is_default, is_interpolated, note, quoted, settle, withdraw
    from fedpurin.run.record import make_folder
    from fedpurin.run.resume import check_folder, check_sweep_folder
    from fedpurin.run.world import check_sweep_devices, external_world

    is_sweep = bool({"-m", "--multirun"} & set(arguments))
    overrides = run_overrides([argument for argument in arguments if argument not in ("-m", "--multirun")])
    if overrides is None:  # Hydra shows its configuration
        _run_hydra()
        return
    if is_sweep:
        if not any(override.startswith("launcher=") for override in overrides):  # which starts processes elsewhere
            external_world("auto")
            check_sweep_devices(planned_jobs(overrides))
        jobs = planned_jobs(overrides)
        whole = [[*job, *search_path(overrides)] for job in jobs]
        check_jobs(whole)  # before Hydra starts the first of them
        folder = sweep_folder(jobs, overrides)
        placed = [*overrides, *([f"hydra.sweep.dir={quoted(folder)}"] if folder else [])]
        check_sweep_folder(placed, whole[0] if whole else ())
        sys.argv[1:] = ["-m", *placed, *keep_folders(jobs, placed)]
        say(before_sweep(whole))
        multirun = Multirun(len(jobs)) if jobs and is_first_process() else None
        try:
            _run_hydra(multirun)
        except (SystemExit, KeyboardInterrupt):
            if multirun is not None:
                multirun.stop()
            raise
        finally:
            if folder is not None:
                withdraw(folder, keep_files=True)
        if multirun is not None and (code := multirun.close()):
            raise SystemExit(code)
        return
    config, run_dir = compose_config(overrides)
    external_world(config.trainer.devices, config.trainer.num_nodes)
    if is_default(run_dir, overrides):
        run_dir = settle(run_dir)
    elif is_interpolated(overrides):
        run_dir = as_first(run_dir)
    check_folder(config, run_dir)  # before Hydra writes into it
    if not is_first_process():  # another rank of this run: the folder is the first one's
        run(config, run_dir)
        return
    if (own := f"hydra.run.dir={quoted(run_dir)}") not in arguments:
        sys.argv.append(own)  # Hydra would ask the clock again, and knows no `~`
    say(remarks(config, overrides))
    note(run_dir)
    try:
        make_folder(run_dir)  # what Hydra would end with a traceback
        _run_hydra_in(run_dir)
    except (ConfigError, KeyboardInterrupt):
        withdraw(run_dir)
        raise
    except SystemExit as end:
        if end.code == 2:  # a mistake, told already
            withdraw(run_dir)
        raise


def _run_hydra_in(run_dir: Path) -> None:
    """Where Hydra itself cannot write the run folder, its error comes here instead of going to the terminal.

    Raises:
        FolderError: what has happened to the folder, in a line.
    """
    given = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"  # Hydra asks at the moment of a failure; the run itself gets the user's value back
    with Place(run_dir).explained():
        try:
            _run_hydra(before=lambda: _put_back(given))
        finally:
            _put_back(given)


def _put_back(given: str | None) -> None:
    os.environ.pop(FULL_ERROR, None)
    if given is not None:
        os.environ[FULL_ERROR] = given


def _run_hydra(multirun: Multirun | None = None, before: Callable[[], None] | None = None) -> None:
    import hydra
    from omegaconf import DictConfig

    @hydra.main(version_base="1.3", config_path="pkg://configs", config_name="config")
    def task(composed: DictConfig) -> None:
        if before is not None:
            before()
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        from fedpurin.run.compose import to_config
        from fedpurin.run.resume import note_refusal

        mapping: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        hydra_config = HydraConfig.get()
        run_dir = Path(hydra_config.runtime.output_dir)
        error: Exception | None = None
        follows = multirun is not None and multirun.is_here
        if multirun is not None and follows:
            multirun.begin(hydra_config.overrides.task, Path(hydra_config.sweep.dir))
        try:
            run(to_config(mapping, hydra_config), run_dir, of_sweep=hydra_config.mode == RunMode.MULTIRUN)
        except ConfigError as mistake:
            if hydra_config.mode != RunMode.MULTIRUN:
                raise SystemExit(_report_error(mistake, code=2)) from mistake
            note_refusal(run_dir, mistake)
            error = mistake
        except (FolderError, EveryoneDivergedError) as lost:
            if hydra_config.mode != RunMode.MULTIRUN:
                raise SystemExit(_report_error(lost, code=1)) from lost
            error = lost
        except Exception as failure:
            if hydra_config.mode != RunMode.MULTIRUN and _is_lost_rank(failure):
                raise SystemExit(_report_error(failure, code=1)) from failure
            error = failure
        is_last = error is not None and _ranks_are_lost()
        if error is not None and (not follows or os.environ.get(FULL_ERROR) == "1"):
            if is_last:
                raise SystemExit(_report_error(error, code=1)) from error
            raise error  # Hydra's to report
        if multirun is not None and follows:
            multirun.end(run_dir, error)  # the sweep goes on with its other runs
            if is_last:
                raise SystemExit(multirun.lose_ranks()) from error

    task()


COMMAND_MODULES = {
    "report": "fedpurin.cli.report",
    "partition": "fedpurin.cli.partition",
    "select": "fedpurin.cli.select",
    "resume": "fedpurin.cli.resume",
    "export": "fedpurin.cli.export",
    "sweep": "fedpurin.cli.sweep",
    "list": "fedpurin.cli.list",
    "sync": "fedpurin.cli.sync",
    "new": "fedpurin.cli.new",
    "reproduce": "fedpurin.cli.reproduce",
    "completion": "fedpurin.cli.completion",
}


def _command(name: str) -> Callable[[Sequence[str]], int]:
    command: Callable[[Sequence[str]], int] = import_module(COMMAND_MODULES[name]).main
    return command


def _is_lost_rank(error: Exception) -> bool:
    """Whether another rank is why this one ends: it has said so itself, or cannot, and a traceback here says nothing."""
    exchange = sys.modules.get("fedpurin.exchange")  # torch, of which a mistake before it would wait to be told
    return exchange is not None and isinstance(error, exchange.RankLostError)


def _ranks_are_lost() -> bool:
    exchange = sys.modules.get("fedpurin.exchange")
    return exchange is not None and bool(exchange.ranks_are_lost())


def _report_error(error: Exception, code: int) -> int:
    if os.environ.get(FULL_ERROR) == "1":
        raise error
    print(f"fedpurin: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
