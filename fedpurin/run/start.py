"""One run of the command line, to its end or to a signal: new or continued, alone or one of a sweep.

Owns: what is printed, left in the folder, and turned into an exit code. Does not own: the making of a run (build.py).
Imports torch only once the folder may be used.
"""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

from fedpurin.config import Config, ConfigError
from fedpurin.run import starting
from fedpurin.run.lock import is_first_process
from fedpurin.run.place import Place
from fedpurin.run.resume import check_folder, holds_run, how_to_continue, is_finished, note_refusal


class EveryoneDivergedError(RuntimeError):
    """The run has all of its rounds, and at the end nobody trained any more. The text is one line for the user."""


def run(config: Config, run_dir: Path, *, of_sweep: bool = False) -> None:
    """One run, to its end or to a signal; a run that is finished already is left alone.

    Args:
        of_sweep: this process goes on with further runs, and its process group with it.

    Raises:
        EveryoneDivergedError: after its end, with everything written.
    """
    check_folder(config, run_dir)
    if is_finished(config, run_dir):
        print(f"{run_dir}: finished already, with {config.trainer.rounds} rounds or more")
        return
    from fedpurin.exchange import close_at_exit
    from fedpurin.run.build import build
    from fedpurin.run.interruption import Interrupted
    from fedpurin.run.record import diverged_from

    # Fabric recommends srun wherever SLURM is installed, also on a login node.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    logging.captureWarnings(True)
    try:
        with Place(run_dir).explained() if run_dir.is_dir() else nullcontext():
            if of_sweep:
                close_at_exit()
            federation = build(config, run_dir)
            starting.over()
            try:
                federation.run()
            except Interrupted:
                federation.processes.close()
                raise
            if not of_sweep:
                federation.processes.close()
            since = diverged_from(federation) if federation.processes.rank == 0 else None
            if since is not None:
                raise EveryoneDivergedError(
                    f"every client diverged from round {since + 1} to the last, round {config.trainer.rounds}: nothing "
                    "was learned there, and the accuracies are of what was left before; take a smaller step (model.lr) "
                    f"or look into {run_dir}/clients.csv, column diverged"
                )
    except ConfigError as error:
        note_refusal(run_dir, error)
        raise
    except Interrupted as stop:
        if stop.rank == 0:
            print(f"fedpurin: {stop}; {how_to_continue(run_dir)}", file=sys.stderr)
        stop.leave()
    except KeyboardInterrupt:
        if is_first_process() and holds_run(run_dir):
            print(f"fedpurin: {how_to_continue(run_dir)}", file=sys.stderr)
        raise
