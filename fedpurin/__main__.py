"""The `fedpurin` command: compose, validate, build, run; and the door to its other commands.

Hydra runs the plain command and sweeps. Overrides are composed and checked here first, because Hydra ends with
exit code 1 and a traceback where a user's mistake deserves code 2 and a line.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedpurin.config import Config, ConfigError
from fedpurin.help import COMMANDS, help_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 the run failed, 2 a mistake in what was asked for)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.argv[1:] = arguments  # Hydra and Fabric's launcher read them there
    try:
        if arguments and arguments[0] in COMMANDS:
            return _command(arguments[0])(arguments[1:])
        if arguments in (["--help"], ["-h"], ["help"]):
            print(help_text())
        elif arguments == ["--version"]:
            from fedpurin import __version__

            print(f"fedpurin {__version__}")
        else:
            train(arguments)
    except ConfigError as error:
        return _complain(error, code=2)
    except KeyboardInterrupt:
        print("fedpurin: interrupted", file=sys.stderr)
        return 130
    return 0


def train(arguments: Sequence[str]) -> None:
    """The plain command: overrides, and Hydra's own flags where there are any."""
    from fedpurin.compose import compose_config
    from fedpurin.record import make_folder

    flags = [argument for argument in arguments if argument.startswith("-")]
    if flags:  # a sweep, or Hydra showing its configuration
        _run_hydra()
    else:
        config, run_dir = compose_config(arguments)
        if _is_first_process():
            make_folder(run_dir)  # what Hydra would end with a traceback
            _run_hydra()
        else:  # another rank of this run: the folder is the first one's
            _run(config, run_dir)


def _run_hydra() -> None:
    import hydra
    from omegaconf import DictConfig

    @hydra.main(version_base="1.3", config_path="pkg://configs", config_name="config")
    def task(composed: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        from fedpurin.compose import to_config

        mapping: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        hydra_config = HydraConfig.get()
        try:
            _run(to_config(mapping), Path(hydra_config.runtime.output_dir))
        except ConfigError as error:
            if hydra_config.mode == RunMode.MULTIRUN:
                raise  # the sweep goes on with its other runs
            raise SystemExit(_complain(error, code=2)) from error

    task()


def _run(config: Config, run_dir: Path) -> None:
    from fedpurin.build import build

    # Fabric recommends srun wherever SLURM is installed, also on a login node.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    logging.captureWarnings(True)
    build(config, run_dir).run()


def _is_first_process() -> bool:
    """False in the ranks that Fabric, torchrun or srun started beside the first one."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID") if "SLURM_STEP_ID" in os.environ else ("RANK", "LOCAL_RANK")
    return all(int(os.environ.get(name, "0")) == 0 for name in ranks)


def _command(name: str) -> Callable[[Sequence[str]], int]:
    if name == "select":
        from fedpurin.selection.command import main as command
    else:
        from fedpurin.data.command import main as command
    return command


def _complain(error: Exception, code: int) -> int:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    print(f"fedpurin: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
