"""A run folder as a W&B run: which one, what is logged for a round, and replaying the folder's files into it.

Everything W&B gets for a round is a function of the folder's own files, so a run that W&B missed, in part or whole, can
be uploaded later (`fedpurin sync`), and a resumed run goes on without a gap or a round twice. Does not own: when to
log and what to do when W&B fails (callbacks/tracking.py). `wandb` and matplotlib are imported only in functions.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpurin.config import Config, ConfigError
from fedpurin.run import reader
from fedpurin.tracking import wandb_service
from fedpurin.tracking.mask_figures import Pixels, density_figure, overlap_figure, to_pixels

log = logging.getLogger(__name__)

IDENTITY = "wandb.json"
NOT_CURVES = ("clients", "masks", "last")
_used_here: set[str] = set()  # ids from the environment that this process has given away


def identity(run_dir: Path) -> dict[str, Any]:
    """This folder's one W&B run, chosen at its first use: {"id": ...}, and "uploaded" once it was synced."""
    path = run_dir / IDENTITY
    if path.exists():
        stored = reader.read_object(path)
        if not isinstance(stored.get("id"), str):
            raise ConfigError(f"{path} is damaged: remove it, and the run becomes another one on W&B")
        return stored
    asked, own = os.environ.get("WANDB_RUN_ID"), secrets.token_hex(4)
    if asked and (why := _belongs_elsewhere(asked, run_dir)):
        log.warning("WANDB_RUN_ID=%s is not used for %s, which gets the id %s: %s", asked, run_dir, own, why)
        asked = None
    chosen = {"id": asked or own}
    if asked:
        _used_here.add(asked)
    path.write_text(json.dumps(chosen) + "\n")
    return chosen


def is_in_sweep(run_dir: Path) -> bool:
    """Whether the folder is one of a Hydra sweep's or of an array's."""
    sweep = run_dir.resolve().parent
    return any((sweep / name).exists() for name in reader.SWEEP_FILES)


def _belongs_elsewhere(run_id: str, run_dir: Path) -> str:
    """Why an id from the environment is not this folder's; an agent gives each of its runs another."""
    if is_in_sweep(run_dir):
        return "every run of the sweep would overwrite the others on W&B"
    if run_id in _used_here:
        return "an earlier run of this process has it"
    for other in run_dir.resolve().parent.glob(f"*/{IDENTITY}"):
        if reader.read_object(other).get("id") == run_id:
            return f"the run in {other.parent.name} has it"
    return ""


def open_run(
    config: Config,
    run_dir: Path,
    *,
    mode: str,
    project: str,
    entity: str | None = None,
    group: str | None = None,
    silent: bool = True,
) -> Any:
    """Start or continue this folder's W&B run.

    Raises:
        wandb.errors.Error: W&B refused, or could not be reached in time.
    """
    import wandb

    method = str(config.method.get("_target_", "method")).rpartition(".")[2]
    environment = reader.read_object(run_dir / reader.ENVIRONMENT)
    with wandb_service.silent_log():
        run = wandb.init(
            id=identity(run_dir)["id"],
            resume="allow",
            reinit="create_new",
            mode=mode,  # type: ignore[arg-type]
            project=project,
            entity=entity,
            group=group or default_group(config, run_dir),
            name=config.name,
            tags=[*config.tags, method, config.data.name],
            dir=run_dir,
            config={
                **json.loads(json.dumps(config.to_mapping())),
                "run_dir": str(run_dir),
                "git_revision": environment.get("git_revision"),
                "slurm_restart_count": environment.get("slurm_restart_count"),
            },
            settings=wandb.Settings(console="off", silent=silent, init_timeout=wandb_service.INIT_SECONDS),
        )
    run.define_metric("round")
    run.define_metric("bytes/cumulative")
    run.define_metric("*", step_metric="round")
    return run


def default_group(config: Config, run_dir: Path) -> str:
    """The sweep that the run belongs to, by its folder; else the run's name."""
    return "/".join(run_dir.resolve().parent.parts[-2:]) if is_in_sweep(run_dir) else config.name


def uploaded_rounds(run: Any) -> range:
    """Rounds that the server had when the run was opened; `run.step` says 0 until something is logged."""
    return range(run.starting_step)


def recorded_rounds(folders: Iterable[Path]) -> set[int]:
    """Rounds that W&B's local files hold, read by W&B's own tool; empty where it cannot."""
    rounds: set[int] = set()
    for folder in folders:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
        try:
            listing = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        for line in listing.splitlines():
            try:
                item = json.loads(line).get("history", {}).get("item", {})
            except ValueError:
                continue  # the last line of a run that was killed
            if "round" in item:
                rounds.add(int(item["round"]))
    return rounds


def wandb_folders(run_dir: Path, kind: str = "*") -> list[Path]:
    """W&B's own folders of this run, one a start; `kind` `offline-` leaves out those that were online."""
    return sorted((run_dir / "wandb").glob(f"{kind}run-*-{identity(run_dir)['id']}"))


def replay(run: Any, run_dir: Path, known: Iterable[int], until: int | None = None) -> int:
    """Log the folder's rounds that W&B does not know; returns how many."""
    skip, count = set(known), 0
    for payload in payloads(run_dir):
        if payload["round"] not in skip and (until is None or payload["round"] < until):
            log_round(run, payload)
            count += 1
    return count


def payloads(run_dir: Path) -> Iterator[dict[str, Any]]:
    """What is logged for each round of the folder, in order; nothing before its first round has ended."""
    rounds = reader.read_rounds(run_dir)
    if not rounds:
        return
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in reader.read_clients(run_dir).records():
        rows.setdefault(int(row["round"]), []).append(dict(row))
    header, lines = reader.read_masks(run_dir)
    masks = {number: name_tensors(line, header) for number, line in lines.by_round().items()}
    traffic, summary = 0, reader.read_summary(run_dir)
    for record in rounds:
        traffic += record.get("bytes/up", 0) + record.get("bytes/down", 0)
        number = record["round"]
        last = summary.get("status") in reader.ENDED and number == summary.get("rounds", 0) - 1
        yield make_payload(record, rows.get(number, []), masks.get(number, {}), traffic=traffic, last=last)


def name_tensors(line: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, Any]:
    """A round's line of `masks.jsonl` with what the file's first line says of the tensors."""
    return {name: header[name] for name in ("tensors", "sizes") if name in header} | dict(line)


def make_payload(
    record: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    masks: Mapping[str, Any],
    *,
    traffic: int,
    last: bool,
) -> dict[str, Any]:
    """One round: its metrics, cumulative bytes as a second axis, its clients, its masks where they were measured."""
    return {**record, "bytes/cumulative": traffic, "clients": list(rows), "masks": dict(masks), "last": last}


def scalars(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What is drawn as a curve: the round's record, and the density of each tensor's masks by the tensor's place."""
    values = {name: value for name, value in payload.items() if name not in NOT_CURVES and value is not None}
    return values | {f"mask/density/{i:03d}": share for i, share in enumerate(payload["masks"].get("density", []))}


def log_round(run: Any, payload: Mapping[str, Any]) -> None:
    """Send one round. Its number is W&B's step, so W&B itself drops one that it has.

    Clients go along as a table in the rounds that have pictures, and in the last.
    """
    import wandb

    drawn = pictures(payload)
    values = scalars(payload) | {name: wandb.Image(pixels) for name, pixels in drawn.items()}
    if payload["clients"] and (drawn or payload["last"]):
        columns = list(payload["clients"][0])
        cells = [
            ["" if row.get(name) is None else str(row.get(name)) for name in columns] for row in payload["clients"]
        ]
        values["clients"] = wandb.Table(columns=columns, data=cells)
    run.log(values, step=payload["round"])


def pictures(payload: Mapping[str, Any]) -> dict[str, Pixels]:
    """The round's pictures, in the rounds in which `callbacks.mask_statistics` measured overlaps."""
    masks, number = payload["masks"], payload["round"]
    drawn = {}
    if "overlap" in masks:
        drawn["mask/overlap"] = to_pixels(overlap_figure(masks["ids"], masks["overlap"], number))
        if "tensors" in masks and "density" in masks:
            figure = density_figure(masks["tensors"], masks["sizes"], masks["density"], masks["density/all"], number)
            drawn["mask/density/by_tensor"] = to_pixels(figure)
    return drawn
