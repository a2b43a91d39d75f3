"""The same as the `fedpurin` command, from Python: one function, the user's own module and data sets."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning import LightningModule
from torch import nn
from torch.utils.data import Dataset

from fedpurin.config import Config, ConfigError, name_of
from fedpurin.data import LabelledData
from fedpurin.exchange import close_at_exit
from fedpurin.federation import Federation
from fedpurin.metrics import headline
from fedpurin.run.build import build
from fedpurin.run.compose import compose_config
from fedpurin.run.effects import option_of, remarks, say
from fedpurin.run.folder import expand_home, is_default, note, settle, withdraw
from fedpurin.run.interruption import Interrupted
from fedpurin.run.lock import is_first_process
from fedpurin.run.place import Place
from fedpurin.run.reader import CLIENTS, read_summary
from fedpurin.run.resume import how_to_continue
from fedpurin.run.world import external_world


@dataclass(frozen=True, repr=False)
class RunResult:
    """A finished run: its folder, every round's record (on rank 0), and the loop with its clients."""

    run_dir: Path
    history: list[dict[str, Any]]
    federation: Federation

    def __repr__(self) -> str:
        """One line: the folder, the rounds, and the last value that the run is judged by."""
        last = self.history[-1] if self.history else {}
        name = f"{headline(self.federation.config.trainer.monitor, last)}/personalized"
        value = last.get(name)
        measured = f", {name}={value:.4g}" if isinstance(value, float) else ""
        return f"RunResult({str(self.run_dir)!r}, {len(self.history)} rounds{measured})"

    @property
    def rounds(self) -> Any:
        """`metrics.jsonl` as a pandas DataFrame, a row a round; `round` counts from 0."""
        return _pandas("rounds").DataFrame(self.history)

    @property
    def clients(self) -> Any:
        """`clients.csv` as a pandas DataFrame, a row a client and round."""
        return _pandas("clients").read_csv(self.run_dir / CLIENTS)

    def model(self, client: int) -> LightningModule:
        """A copy of one client's module with its personalised model, in evaluation mode, on the CPU.

        Raises:
            fedpurin.ConfigError: there is no such client, or it lives on another rank.
        """
        federation = self.federation
        if client not in federation.clients:
            count, own = federation.config.partition.num_clients, sorted(federation.clients)
            where = "on another rank" if 0 <= client < count else f"not there; clients are 0 to {count - 1}"
            raise ConfigError(f"model({client}): the client is {where} (this rank has {len(own)} clients)")
        return federation.trainer.copy_of(federation.clients[client])

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` says."""
        return read_summary(self.run_dir)


def simulate(
    overrides: Sequence[str] = (),
    *,
    module: nn.Module | None = None,
    train: Dataset[Any] | None = None,
    test: Dataset[Any] | None = None,
    clients: tuple[Sequence[Any], Sequence[Any]] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    data: LabelledData | Callable[..., Any] | None = None,
    partition: Callable[..., Any] | None = None,
    scores: Callable[..., Any] | None = None,
    program: Callable[..., Any] | None = None,
    callbacks: Sequence[Any] = (),
    run_dir: str | Path | None = None,
) -> RunResult:
    """Run one federation and return its result.

    Args:
        overrides: what would follow `fedpurin` on the command line, e.g. `["method=fedavg", "trainer.rounds=5"]`.
        module: the clients' LightningModule, with `training_step`, `configure_optimizers` and a `validation_step`
            that logs "accuracy"; a plain network gets cross-entropy and SGD, as on the command line; None builds the
            configured model. The run works on a copy: all clients start from the module's present weights, and the
            object stays as it is.
        train: a map-style data set of (x, y) pairs, or of anything else that `training_step` takes in batches of its
            structure (docs/data.md); None, here and in `test`, loads the configured data.
        test: the same for what clients are evaluated on.
        clients: whose each sample of `train` and of `test` is, as two sequences of names or numbers; every name is a
            client then (partition=natural), in sorted order.
        collate: makes a batch of a list of their samples, where those differ in length.
        data: `fedpurin.data.LabelledData`, or what `data._target_` could name (docs/add-a-data-set.md).
        partition: a function in the place of ours, as `partition._target_` names one (docs/add-a-partition.md).
        scores: the same for `scores._target_` (docs/add-a-program.md).
        program: the same for `program._target_`.
        callbacks: Lightning callbacks beside the configured ones.
        run_dir: the run folder; None takes Hydra's `outputs/DATE/TIME`.

    Raises:
        fedpurin.ConfigError: a mistake in the options, or parts that do not fit each other.
    """
    overrides = expand_home(overrides)
    config, default_dir = compose_config(overrides)
    if data is not None and (train is not None or test is not None):
        raise ConfigError("simulate was given data as well as train and test; pass one of them")
    config = _with_own(config, data=data, partition=partition, scores=scores, program=program)
    if train is not None:
        name = config.name.replace(config.data.name, "own-data")
        config = replace(config, data=replace(config.data, name="own-data"), name=name)
    if collate is not None and train is None:
        raise ConfigError("simulate was given collate and no data sets; pass train and test with it")
    if clients is not None:
        if train is None or test is None:
            raise ConfigError("simulate was given clients and no data sets; pass train and test with them")
        config = _with_clients(config, clients, overrides)
    brought = {
        "data": train if data is None else data,
        "model": module,
        "partition": partition or clients,
        "program": program,
    }
    theirs = [group for group, own in brought.items() if own is not None]
    config = replace(config, choices={group: name for group, name in config.choices.items() if group not in theirs})
    if is_first_process():
        say(remarks(config, overrides))
    external_world(config.trainer.devices, config.trainer.num_nodes)
    if run_dir is not None:
        folder = Path(run_dir).expanduser()
    else:
        folder = settle(default_dir) if is_default(default_dir, overrides) else default_dir
    if is_first_process():
        note(folder)
    close_at_exit()
    try:
        federation = build(
            config, folder, module=module, train=train, test=test, clients=clients, collate=collate, callbacks=callbacks
        )
        with Place(folder).explained():
            history = federation.run()
        return RunResult(folder, history, federation)
    except (ConfigError, KeyboardInterrupt):
        withdraw(folder)
        raise
    except Interrupted as stop:
        if stop.rank == 0:
            print(f"fedpurin: {stop}; {how_to_continue(folder)}, or simulate with resume=auto there", file=sys.stderr)
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt from stop  # a notebook's kernel goes on
        stop.leave()


def _with_clients(config: Config, clients: Any, overrides: Sequence[str]) -> Config:
    """partition=natural, with as many clients as there are names."""
    named = [item for item in overrides if option_of(item).partition(".")[0] == "partition"]
    allowed = ("partition=natural", "partition.num_clients=")
    if (other := [item for item in named if not item.startswith(allowed)]) or config.partition.own:
        raise ConfigError(
            f"simulate was given clients, which are the partition; leave out {' '.join(other) or 'yours'}"
        )
    if not isinstance(clients, tuple | list) or len(clients) != 2:
        raise ConfigError("clients must be (whose each training sample is, whose each test sample is)")
    count = config.partition.num_clients
    if not any(item.startswith(allowed[1]) for item in named):
        count = len({str(name) for part in clients for name in part})
    return replace(config, partition=replace(config.partition, name="natural", num_clients=count))


def _pandas(attribute: str) -> Any:
    try:
        import pandas  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise ConfigError(
            f"RunResult.{attribute} needs the package pandas: pip install 'fedpurin[pandas]'; without it: RunResult.history, "
            "and clients.csv in RunResult.run_dir"
        ) from None
    return pandas


def _with_own(config: Config, **brought: Any) -> Config:
    """The configuration with the user's functions in their sections; it is told by their names in the run folder."""
    for section, value in brought.items():
        if value is None:
            continue
        options = getattr(config, section)
        named: dict[str, Any] = {"own": {**options.own, "_target_": value}}
        if isinstance(value, LabelledData):
            named = {"name": value.name, "own": {"_target_": _handed_over(value)}}
        elif not callable(value):
            raise ConfigError(f"simulate was given {section}={type(value).__name__}, which cannot be called")
        elif section == "data":
            named["name"] = name_of(value).rpartition(".")[2]
        elif section != "scores":
            named["name"] = "custom"
        name = config.name.replace(options.name, named["name"]) if section == "data" else config.name
        config = replace(config, **{section: replace(options, **named)}, name=name)
    return config


def _handed_over(data: LabelledData) -> Callable[[], LabelledData]:
    def handed_over() -> LabelledData:
        return data

    return handed_over
