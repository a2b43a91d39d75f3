"""A run folder as a W&B run: which one, what is logged for a round, and replaying the folder's files into it.

Everything W&B gets for a round is a function of the folder's own files, so a run that W&B missed, in part or whole, can
be uploaded later (`fedpurin sync`), and a resumed run goes on without a gap or a round twice. Does not own: when to
log and what to do when W&B fails (callbacks/tracking.py). `wandb` and matplotlib are imported only in functions.
"""

from __future__ import annotations

import contextlib
import csv
import json
import netrc
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedpurin.config import Config

IDENTITY = "wandb.json"
PROBE_SECONDS = 5.0
INIT_SECONDS = 12.0
"""Together with the probe below twenty seconds: how long a node without network may take to find that out."""


def identity(run_dir: Path) -> dict[str, Any]:
    """This folder's one W&B run, chosen at its first use: {"id": ...}, and "uploaded" once it was synced."""
    path = run_dir / IDENTITY
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored
    chosen = {"id": os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)}
    path.write_text(json.dumps(chosen) + "\n")
    return chosen


def has_login() -> bool:
    """Whether there is an API key; W&B itself would ask for one on a terminal."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(_server().hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def is_reachable() -> bool:
    """Whether the W&B server answers. Behind a proxy only trying can tell."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    server = _server()
    port = server.port or (443 if server.scheme == "https" else 80)
    try:
        socket.create_connection((server.hostname or "", port), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def choose_mode(wanted: str | None) -> str:
    """`online`, `offline` or `disabled`: what was asked for, else WANDB_MODE, else online with a login."""
    mode = wanted or os.environ.get("WANDB_MODE") or ("online" if has_login() else "offline")
    return "offline" if mode == "online" and not is_reachable() else mode


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
    environment = _read_json(run_dir / "environment.json")
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
        settings=wandb.Settings(console="off", silent=silent, init_timeout=INIT_SECONDS),
    )
    run.define_metric("round")
    run.define_metric("bytes/cumulative")
    run.define_metric("*", step_metric="round")
    return run


def forget_process() -> None:
    """End W&B's own process, dead or alive: its next use starts a new one, and an id is no longer in use."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown(exit_code=1)


def default_group(config: Config, run_dir: Path) -> str:
    """The sweep that the run belongs to, by its folder; else the run's name."""
    sweep = run_dir.resolve().parent
    is_sweep = (sweep / "multirun.yaml").exists() or (sweep / "overrides.txt").exists()
    return "/".join(sweep.parts[-2:]) if is_sweep else config.name


def recorded_rounds(run_dir: Path) -> set[int]:
    """Rounds that W&B's local files of this run hold, read by W&B's own tool; empty where it cannot."""
    rounds: set[int] = set()
    for folder in wandb_folders(run_dir):
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


def wandb_folders(run_dir: Path) -> list[Path]:
    """W&B's own folders of this run, one a start."""
    return sorted((run_dir / "wandb").glob(f"*run-*-{identity(run_dir)['id']}"))


def replay(run: Any, run_dir: Path, known: Iterable[int], until: int | None = None) -> int:
    """Log the folder's rounds that W&B does not know; returns how many."""
    skip, count = set(known), 0
    for payload in payloads(run_dir):
        if payload["round"] not in skip and (until is None or payload["round"] < until):
            log_round(run, payload)
            count += 1
    return count


def payloads(run_dir: Path) -> Iterator[dict[str, Any]]:
    """What is logged for each round of the folder, in order."""
    rows: dict[int, list[dict[str, Any]]] = {}
    with (run_dir / "clients.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(int(row["round"]), []).append(dict(row))
    masks = {line["round"]: line for line in _read_lines(run_dir / "masks.jsonl") if "round" in line}
    traffic = 0
    for record in _read_lines(run_dir / "metrics.jsonl"):
        traffic += record.get("bytes/up", 0) + record.get("bytes/down", 0)
        number = record["round"]
        yield make_payload(record, rows.get(number, []), masks.get(number, {}), traffic)


def make_payload(
    record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], masks: Mapping[str, Any], traffic: int
) -> dict[str, Any]:
    """One round: its metrics, cumulative bytes as a second axis, its clients, its masks where they were measured."""
    return {**record, "bytes/cumulative": traffic, "clients": list(rows), "masks": dict(masks)}


def log_round(run: Any, payload: Mapping[str, Any]) -> None:
    """Send one round. Its number is W&B's step, so W&B itself drops one that it has.

    Clients go along as a table, and the overlap matrix as an image, in the rounds in which overlaps were measured.
    """
    import wandb

    values = {name: value for name, value in payload.items() if name not in ("clients", "masks") and value is not None}
    masks = payload["masks"]
    for index, share in enumerate(masks.get("density", [])):
        values[f"mask/density/{index:03d}"] = share
    if "overlap" in masks:
        values["mask/overlap"] = wandb.Image(overlap_figure(masks["ids"], masks["overlap"], payload["round"]))
    if payload["clients"] and ("overlap" in masks or payload.get("last")):
        columns = list(payload["clients"][0])
        cells = [
            ["" if row.get(name) is None else str(row.get(name)) for name in columns] for row in payload["clients"]
        ]
        values["clients"] = wandb.Table(columns=columns, data=cells)
    run.log(values, step=payload["round"])


def overlap_figure(ids: Sequence[int], overlap: Sequence[Sequence[float | None]], number: int) -> Any:
    """The participants' mask overlaps as a matrix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow([[float("nan") if value is None else value for value in row] for row in overlap])
    figure.colorbar(image, label="overlap $O_{ij}$")
    axes.set(title=f"mask overlap, round {number}", xlabel="client j", ylabel="client i")
    axes.set_xticks(range(len(ids)), [str(id) for id in ids], fontsize=6)
    axes.set_yticks(range(len(ids)), [str(id) for id in ids], fontsize=6)
    return figure


def _server() -> Any:
    return urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break  # the line that a running or killed process was writing
    return lines
