"""The soak: faults at random for some minutes, on digits; every run must end with the bits of one that saw none.

    python -m tests.soak --minutes 30 --seed 1

Each run is started again and again, on one to three processes, and meets a fault at each start until it has finished;
then its records, masks and last checkpoint are compared with those of an undisturbed run. Every ending is held to what
docs/reliability.md promises: its exit code, one line and no traceback, nobody left behind. One process is forked from
this one, which has imported everything; several are started by the command. Faults come from the seed, moments from the
machine. Does not own: single faults with what exactly is said (tests/integration/test_faults.py and its neighbours).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from fedpurin.__main__ import main as fedpurin
from fedpurin.run.build import build  # noqa: F401  imported once, for all forks
from fedpurin.run.checkpoint import find_all
from fedpurin.run.reader import read_summary
from tests.integration.test_damage import KINDS, mutate
from tests.integration.test_faults import children
from tests.integration.test_resume import assert_same_folders

ROUNDS = 16
OPTIONS = [
    "partition.num_clients=5", "partition.train_per_client=60", "trainer.local_epochs=1", "trainer.threads=1",
    "trainer.accelerator=cpu", "method.beta=4", f"trainer.rounds={ROUNDS}", "checkpoint.every=2",
    "exchange.timeout_seconds=20",
]  # fmt: skip
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
HUNG_SECONDS = 240.0
DISK_MIB = 64


class SoakError(AssertionError):
    """Something that is promised was not kept."""


class Started:
    """A command on its way, in a session of its own."""

    def __init__(self, arguments: list[str], log: Path, devices: int) -> None:
        self.log, self.devices, self.code = log, devices, 0
        self.ranks: set[int] = set()
        if devices == 1:
            self.pid = os.fork()
            if self.pid == 0:
                self._become(arguments)
        else:
            with log.open("wb") as file:
                command = [sys.executable, "-m", "fedpurin", *arguments]
                self._process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
            self.pid = self._process.pid

    def _become(self, arguments: list[str]) -> None:
        os.setsid()
        file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1), os.dup2(file, 2)
        sys.argv = ["fedpurin", *arguments]
        code = 1
        try:
            code = fedpurin()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)

    def is_running(self) -> bool:
        if self.devices > 1:
            if self._process.poll() is None:
                self.ranks |= set(self._children())
                return True
            self.code = self._process.returncode
            return False
        if self.pid:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if not ended:
                return True
            self.code, self.pid = os.waitstatus_to_exitcode(status), 0
        return False

    def members(self) -> list[int]:
        """The processes of its ranks, rank 0 first."""
        return [self.pid, *self._children()] if self.pid and self.is_running() else []

    def _children(self) -> list[int]:
        try:
            return [pid for pid in children(self.pid) if b"LOCAL_RANK=" in Path(f"/proc/{pid}/environ").read_bytes()]
        except OSError:
            return []

    def wait(self) -> int:
        """Its exit code; every rank has to end with it, a stopped one too."""
        deadline = time.monotonic() + HUNG_SECONDS
        while self.is_running() or any(Path(f"/proc/{rank}").exists() for rank in self.ranks):
            if time.monotonic() > deadline:
                raise SoakError(f"processes {self.pid}, {sorted(self.ranks)} have not ended")
            time.sleep(0.05)
        return self.code

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Soak:
    """One soak: its folders, its dice, and what was counted."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.dice = folder, random.Random(seed)
        self.whole, self.run_dir, self.copy = folder / "whole", folder / "run", folder / "copy"
        self.log = folder / "output.log"
        self.counts: Counter[str] = Counter()
        self.can_fill = _mount(folder / "disk")
        if self.can_fill:
            self.run_dir = folder / "disk" / "run"
        self.starts = self.runs = 0
        self.faults: list[Callable[[Started], None]] = [
            self.signal, self.signal, self.kill, self.kill, self.stop_and_continue, self.stop, self.move, self.delete,
            self.second, *([self.fill] * 2 if self.can_fill else []), self.nothing,
        ]  # fmt: skip

    def begin(self) -> None:
        """The run that meets no fault."""
        started = Started([*OPTIONS, f"hydra.run.dir={self.whole}"], self.log, 1)
        self.expect(started, {0})

    def step(self) -> None:
        """One start with one fault; a finished run is compared, and the next one begins."""
        self.damage_at_rest()
        devices = self.dice.choice([1, 1, 1, 2, 3])
        placed = [f"trainer.devices={devices}"]
        if find_all(self.run_dir) and self.dice.random() < 0.5:
            arguments = ["resume", str(self.run_dir), *placed]
        else:
            arguments = [*OPTIONS, *placed, "resume=auto", f"hydra.run.dir={self.run_dir}"]
        self.keep()
        fault = self.dice.choice(self.faults)
        self.starts += 1
        started = Started(arguments, self.log, devices)
        self.wait_for_moment(started)
        name = fault.__name__ if started.is_running() else "none in time"
        self.counts[name] += 1
        if started.is_running():
            fault(started)
        elif started.wait() not in (0, 2):
            raise SoakError(f"ended with {started.code} and no fault")
        elif started.code == 2:
            self.expect(started, {2}, lines=1)
            self.counts["refused, brought back"] += 1
            self.bring_back()
        if read_summary(self.run_dir).get("status") == "finished":
            if self.is_whole():
                self.compare()
            elif not find_all(self.run_dir):  # damage took them all: nothing is left to compare, nor to go on from
                self.counts["finished, its checkpoints lost"] += 1
                shutil.rmtree(self.run_dir)

    def is_whole(self) -> bool:
        """Whether the last checkpoint could be written; if not, the next start trains its rounds again."""
        return any(checkpoint.rounds_done == ROUNDS for checkpoint in find_all(self.run_dir))

    def compare(self) -> None:
        """The finished run's bits with the undisturbed run's, then away with it."""
        assert_same_folders(self.whole, self.run_dir)
        masks = [_without_seconds(folder / "masks.jsonl") for folder in (self.whole, self.run_dir)]
        if masks[0] != masks[1]:
            raise SoakError("masks.jsonl differs")
        self.runs += 1
        shutil.rmtree(self.run_dir)

    def wait_for_moment(self, started: Started) -> None:
        """Some time into the start-up, or into some round."""
        if self.dice.random() < 0.25:
            time.sleep(self.dice.uniform(0, 2.0 if started.devices == 1 else 12.0))
            return
        target = self.rounds() + self.dice.randint(1, 6)
        deadline = time.monotonic() + HUNG_SECONDS
        while started.is_running() and self.rounds() < target and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(self.dice.uniform(0, 0.3))

    def rounds(self) -> int:
        try:
            return (self.run_dir / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0

    def expect(self, started: Started, codes: set[int], *, lines: int | None = None) -> None:
        """Hold an ending to its promise: the exit code, and with `lines` so many of ours and no traceback."""
        code = started.wait()
        if code not in codes:
            raise SoakError(f"exit code {code}, expected one of {sorted(codes)}")
        if lines is not None and code != 0:
            ours = [
                line
                for line in started.said.splitlines()
                if line.startswith("fedpurin: ") and not line.endswith(" ...")
            ]  # the line that says what is loading is no ending
            if len(ours) != lines or "Traceback" in started.said:
                raise SoakError(f"expected {lines} line and no traceback")

    # Faults. Each waits for the end that it brings about.

    def nothing(self, started: Started) -> None:
        self.expect(started, {0})

    def signal(self, started: Started) -> None:
        """To rank 0, or to all as a terminal does; Ctrl-C perhaps twice."""
        number = self.dice.choice(SIGNALS)
        members = started.members()
        for pid in members if self.dice.random() < 0.3 else members[:1]:
            _send(pid, number)
        if number == signal.SIGINT and self.dice.random() < 0.3:
            time.sleep(self.dice.uniform(0, 0.5))
            for pid in started.members()[:1]:
                _send(pid, number)
            self.expect(started, {0, 130})
            return
        self.expect(started, {0, 128 + number})

    def kill(self, started: Started) -> None:
        if members := started.members():
            _send(self.dice.choice(members), signal.SIGKILL)
        started.wait()

    def stop_and_continue(self, started: Started) -> None:
        if members := started.members():
            victim = self.dice.choice(members)
            _send(victim, signal.SIGSTOP)
            time.sleep(self.dice.uniform(0.2, 4))
            _send(victim, signal.SIGCONT)
        self.expect(started, {0})

    def stop(self, started: Started) -> None:
        """For good: the others end it."""
        members = started.members()
        if len(members) < 2 or not self.rounds():
            self.nothing(started)
            return
        _send(self.dice.choice(members), signal.SIGSTOP)
        started.wait()

    def move(self, started: Started) -> None:
        """Away, and back when the run has ended."""
        away = self.run_dir.with_name("away")
        moved = self.run_dir.exists()
        if moved:
            self.run_dir.rename(away)
        try:
            self.expect(started, {0, 1, 2}, lines=1)
        finally:
            if moved:
                shutil.rmtree(self.run_dir, ignore_errors=True)
                away.rename(self.run_dir)

    def delete(self, started: Started) -> None:
        for _ in range(3):  # against a run that writes meanwhile
            shutil.rmtree(self.run_dir, ignore_errors=True)
        self.expect(started, {0, 1, 2}, lines=1)
        self.bring_back()

    def second(self, started: Started) -> None:
        """Two commands on one folder: whichever takes the lock later is refused."""
        codes = {0}
        if (self.run_dir / "metrics.jsonl").exists():
            arguments = [*OPTIONS, "resume=auto", f"hydra.run.dir={self.run_dir}"]
            other = Started(arguments, self.folder / "second.log", 1)
            self.expect(other, {0, 2}, lines=1)
            codes |= {2} if other.code == 0 else set()
        self.expect(started, codes, lines=1)

    def fill(self, started: Started) -> None:
        """A full disk, for good or for a moment."""
        filler = self.folder / "disk" / "filler"
        try:
            with filler.open("wb", buffering=0) as file:
                while file.write(bytes(2**16)):
                    pass
        except OSError:
            pass
        if self.dice.random() < 0.5:
            time.sleep(self.dice.uniform(0, 1.5))
            filler.unlink()
        try:
            self.expect(started, {0, 1, 2}, lines=1)
        finally:
            filler.unlink(missing_ok=True)

    # At rest.

    def damage_at_rest(self) -> None:
        """Files missing, torn, of another run: saved, or refused in a line and then brought back."""
        self.keep()
        if not find_all(self.run_dir) or self.dice.random() > 0.3:
            return
        for _ in range(self.dice.randint(1, 3)):
            change = (self.dice.choice(KINDS), self.dice.randrange(41), self.dice.random(), self.dice.randint(1, 255))
            mutate(self.run_dir, change, self.whole)
        started = Started(["resume", str(self.run_dir), "trainer.devices=1"], self.log, 1)
        self.counts["damage"] += 1
        self.expect(started, {0, 2}, lines=1)
        if started.code == 2:
            self.counts["damage refused"] += 1
            self.bring_back()
        else:
            self.compare()

    def keep(self) -> None:
        shutil.rmtree(self.copy, ignore_errors=True)
        if self.run_dir.exists():
            shutil.copytree(self.run_dir, self.copy)

    def bring_back(self) -> None:
        shutil.rmtree(self.run_dir, ignore_errors=True)
        if self.copy.exists():
            shutil.copytree(self.copy, self.run_dir)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _mount(disk: Path) -> bool:
    """A small file system of its own, where this process may mount one."""
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(disk)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


def _without_seconds(path: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith("seconds")} for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fedpurin-soak-"))
    soak = Soak(folder, given.seed)
    end = time.monotonic() + 60 * given.minutes
    try:
        soak.begin()
        while time.monotonic() < end:
            soak.step()
    except BaseException as error:
        print(f"seed {given.seed}, start {soak.starts}: {type(error).__name__}: {error}\nkept: {folder}")
        print(soak.log.read_text(errors="replace")[-4000:] if soak.log.exists() else "")
        print(json.dumps(soak.counts))
        return 1
    print(f"seed {given.seed}: {given.minutes:g} minutes, {soak.starts} starts, {soak.runs} runs with the same bits")
    print(json.dumps(dict(sorted(soak.counts.items()))))
    if soak.can_fill:
        subprocess.run(["umount", "--lazy", str(folder / "disk")], check=False)
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
