"""`fedpurin sync RUN_DIR ...`: upload what W&B has not got yet, from a machine that has a network and a login.

Two ways. Where W&B's own offline files hold every round, they are uploaded whole, with system metrics (`wandb sync`).
Otherwise, for a run that still goes on, and ever after, the run folder's files are replayed from the round that W&B
has reached. Does not own: what is logged for a round (wandb_run.py).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fedpurin.cli.text import Help
from fedpurin.config import ConfigError
from fedpurin.run.lock import is_locked
from fedpurin.run.reader import read_summary
from fedpurin.run.stored_config import read_config
from fedpurin.tracking.wandb_run import (
    IDENTITY,
    identity,
    open_run,
    payloads,
    recorded_rounds,
    replay,
    uploaded_rounds,
    wandb_folders,
)
from fedpurin.tracking.wandb_service import forget_process, has_login, is_reachable, kill_process, why_not_online

PATIENCE_SECONDS = 60.0
"""How long a server may be silent during an upload."""
FORGET_SECONDS = 10.0
"""How long W&B's client may take to see that its process was killed."""


def main(arguments: Sequence[str]) -> int:
    """`fedpurin sync RUN_DIR ...`."""
    parser = argparse.ArgumentParser(
        prog="fedpurin sync",
        description="Upload runs to W&B that were recorded without a network, without W&B, or only in part.\n"
        "May be repeated, also while a run goes on: what W&B has is not sent again.",
        epilog="Examples:\n  fedpurin sync outputs/2026-05-04/10-15-00\n  fedpurin sync multirun/tau/*/",
        formatter_class=Help,
    )
    parser.add_argument("run_dirs", metavar="RUN_DIR", type=Path, nargs="+", help="run folders (hydra.run.dir)")
    parser.add_argument("--project", default=None, help="W&B project; default: the run's own, else fedpurin")
    parser.add_argument("--entity", default=None, help="W&B entity; default: the run's own, else yours")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=PATIENCE_SECONDS,
        help="give an upload up when the server has not answered for so long (%(default)g)",
    )  # fmt: skip
    given = parser.parse_args(list(arguments))
    if not given.timeout > 0:
        raise ConfigError(f"--timeout {given.timeout:g} is not possible: it must be greater than 0")
    for run_dir in given.run_dirs:
        read_config(run_dir)  # names a folder that is none, before anything is sent
    if not has_login():
        raise ConfigError("there is no W&B login: run `wandb login`, or set WANDB_API_KEY")
    if why := why_not_online():
        print(f"fedpurin: W&B: {why}", file=sys.stderr)
        return 1
    return max([sync(run_dir, given.project, given.entity, given.timeout) for run_dir in given.run_dirs])


def sync(run_dir: Path, project: str | None, entity: str | None, timeout: float = PATIENCE_SECONDS) -> int:
    """Upload one run; 0 when W&B has all of it that there is by now."""
    if is_tracked_now(run_dir):
        print(f"fedpurin: {run_dir}: is being tracked online; sync it once it has ended", file=sys.stderr)
        return 1
    options = read_config(run_dir).logger.get("wandb") or {}
    project, entity = project or options.get("project") or "fedpurin", entity or options.get("entity")
    replays = identity(run_dir).get("uploaded") == "replay" or is_locked(run_dir) or not is_recorded(run_dir)
    try:
        if replays:
            within(timeout, lambda: upload_rounds(run_dir, project, entity))
        else:
            upload_files(run_dir, project, entity, timeout)
    except Exception as error:  # W&B raises much; the other runs come next
        print(f"fedpurin: {run_dir}: {type(error).__name__}: {' '.join(str(error).split())[:200]}", file=sys.stderr)
        return 1
    return 0


def is_tracked_now(run_dir: Path) -> bool:
    """Whether the run goes on, and sends its rounds itself: a second sender would end it on W&B."""
    folders = sorted(wandb_folders(run_dir), key=lambda folder: folder.name.removeprefix("offline-"))
    online = bool(folders) and not folders[-1].name.startswith("offline-")
    return online and is_locked(run_dir) and "uploaded" not in identity(run_dir)


def is_recorded(run_dir: Path) -> bool:
    """Whether W&B's offline files hold every round of the run."""
    rounds = {payload["round"] for payload in payloads(run_dir)}
    return bool(rounds) and rounds <= recorded_rounds(wandb_folders(run_dir, "offline-"))


def within(timeout: float, upload: Callable[[], None]) -> None:
    """Upload in a thread, which W&B's client may never leave once the server has gone.

    Raises:
        OSError: the server has not answered for so many seconds.
    """
    ended: list[BaseException | None] = []

    def work() -> None:
        try:
            upload()
        except BaseException as error:
            ended.append(error)
        else:
            ended.append(None)

    def has_ended(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    thread = threading.Thread(target=work, name="W&B upload", daemon=True)
    thread.start()
    try:
        watch(timeout, has_ended)
    except OSError:
        kill_process()
        forgets = threading.Thread(target=forget_process, daemon=True)  # the next folder gets a process of its own
        forgets.start()
        forgets.join(FORGET_SECONDS)
        raise
    if ended[0] is not None:
        raise ended[0]


def watch(timeout: float, has_ended: Callable[[float], bool]) -> None:
    """Wait for an upload as long as the server answers; `has_ended` waits so many seconds at most.

    Raises:
        OSError: it has not answered for `timeout` seconds.
    """
    answered = time.monotonic()
    while not has_ended(min(1.0, timeout)):
        if is_reachable():
            answered = time.monotonic()
        elif time.monotonic() - answered > timeout:
            raise OSError(
                f"W&B's server has not answered for {timeout:g} s; what has arrived stays there, "
                "repeat `fedpurin sync` for the rest"
            )


def upload_files(run_dir: Path, project: str, entity: str | None, timeout: float) -> None:
    """Hand the offline folders to `wandb sync`, which takes those of one run in order and skips what it has sent.

    Raises:
        OSError: it did not upload all of them, of which its exit code says nothing; or the server has gone.
    """
    folders = wandb_folders(run_dir, "offline-")
    command = [sys.executable, "-m", "wandb", "sync", "--yes", "--project", project]
    command += ["--entity", entity] if entity else []
    with subprocess.Popen([*command, *map(str, folders)], start_new_session=True) as process:

        def has_ended(seconds: float) -> bool:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                return False
            return True

        try:
            watch(timeout, has_ended)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # and W&B's own process, its child
            raise
    left = [folder.name for folder in folders if not list(folder.glob("*.wandb.synced"))]
    if left:
        raise OSError(f"`wandb sync` has not uploaded {', '.join(left)}; try again")


def upload_rounds(run_dir: Path, project: str, entity: str | None) -> None:
    """Replay the rounds that the server does not have; from then on this is the run's way."""
    (run_dir / IDENTITY).write_text(json.dumps(identity(run_dir) | {"uploaded": "replay"}) + "\n")
    with open_run(read_config(run_dir), run_dir, mode="online", project=project, entity=entity) as run:
        count = replay(run, run_dir, uploaded_rounds(run))
        run.summary.update({name: value for name, value in read_summary(run_dir).items() if value is not None})
    print(f"{run_dir}: {count} rounds uploaded")
