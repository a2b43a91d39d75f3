"""Checkpoints on disk: written whole or not at all, verified, pruned; locks, configurations and files of a run folder."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedpurin.__main__ import main
from fedpurin.cli.resume import with_overrides
from fedpurin.config import ConfigError
from fedpurin.exchange import Processes
from fedpurin.run.checkpoint import CheckpointError, Writing, find_all, find_latest, prune
from fedpurin.run.checkpointer import Client, client_tensors, join_tensors, restore_client, split_tensors
from fedpurin.run.compose import compose_config
from fedpurin.run.lock import RunLock, is_locked
from fedpurin.run.reader import flatten
from fedpurin.run.resume import check_folder, check_sweep_folder, holds_run, how_to_continue, is_free


def tensors() -> dict[str, Tensor]:
    return {"client/0/vector": torch.arange(5.0), "client/1/vector": -torch.arange(5.0), "method/c": torch.ones(2, 3)}


def save(run_dir: Path, rounds: int, *, asynchronous: bool = False) -> None:
    state = {"history": [{"round": number} for number in range(rounds)]}
    Writing(run_dir, rounds, tensors(), state, Processes(), asynchronous=asynchronous).commit()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_was_saved_is_read_back(tmp_path: Path, asynchronous: bool) -> None:
    save(tmp_path, 3, asynchronous=asynchronous)
    found = find_latest(tmp_path, pytest.fail)
    assert found is not None
    assert (found.path.name, found.rounds_done) == ("round-00003", 3)
    assert found.read_state() == {"history": [{"round": 0}, {"round": 1}, {"round": 2}]}
    everything = found.read_tensors(lambda key: True)
    assert {key: value.tolist() for key, value in everything.items()} == {
        key: value.tolist() for key, value in tensors().items()
    }
    assert list(found.read_tensors(lambda key: key.startswith("client/1/"))) == ["client/1/vector"]


def test_an_asynchronous_checkpoint_holds_the_moment_it_was_started(tmp_path: Path) -> None:
    vector = torch.zeros(1000)
    writing = Writing(tmp_path, 1, {"client/0/vector": vector}, {}, Processes(), asynchronous=True)
    vector.fill_(1.0)
    assert writing.commit().read_tensors(lambda key: True)["client/0/vector"].sum() == 0


@pytest.mark.parametrize("file", ["state.json", "tensors/__0_0.distcp", "tensors/.metadata", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path: Path, file: str, damage: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / "checkpoints" / "round-00002" / file
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    reports: list[str] = []
    found = find_latest(tmp_path, reports.append)
    assert found is not None
    assert found.rounds_done == 1
    assert len(reports) == 1
    assert "round-00002" in reports[0]
    assert file in reports[0] or file == "manifest.json"


def test_a_half_written_checkpoint_is_never_found(tmp_path: Path) -> None:
    save(tmp_path, 1)
    Writing(tmp_path, 2, tensors(), {}, Processes())  # killed before it is committed
    assert [checkpoint.rounds_done for checkpoint in find_all(tmp_path)] == [1]
    save(tmp_path, 2)
    prune(tmp_path, keep=5, best=None)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["round-00001", "round-00002"]


def test_the_same_rounds_saved_again_replace_a_damaged_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / "checkpoints" / "round-00002" / "state.json").write_text("{")
    save(tmp_path, 2)
    found = find_latest(tmp_path, pytest.fail)
    assert found is not None
    assert found.rounds_done == 2
    assert found.read_state() == {"history": [{"round": 0}, {"round": 1}]}


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for rounds in (10, 20, 30, 40):
        save(tmp_path, rounds)
    prune(tmp_path, keep=2, best=10)
    assert [checkpoint.rounds_done for checkpoint in find_all(tmp_path)] == [40, 30, 10]
    prune(tmp_path, keep=1, best=None)
    assert [checkpoint.rounds_done for checkpoint in find_all(tmp_path)] == [40]


def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        CheckpointError, match=r"round-00002: not written: No space left on device: it takes about 65\.6 kB"
    ):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["round-00001"]


def test_a_client_comes_back_bit_for_bit() -> None:
    buffers = {"mean": torch.randn(3, 2), "count": torch.tensor(7), "odd": torch.tensor([True])}
    indices = torch.arange(3)
    client = Client(
        4, torch.randn(16), buffers, indices, indices, mask=torch.tensor([1, 2], dtype=torch.uint8),
        extra={"second/model": torch.randn(4)}, metrics={"accuracy/merged": 0.1},
    )  # fmt: skip
    blank = {name: torch.zeros_like(value) for name, value in buffers.items()}
    other = Client(4, torch.zeros(16), blank, indices, indices)
    restore_client(
        other, {**client_tensors(client), "client/40/extra/x": torch.ones(1)}, client.metrics, torch.device("cpu")
    )
    assert torch.equal(other.vector, client.vector)
    assert all(torch.equal(other.buffers[name], value) for name, value in buffers.items())
    assert other.mask is not None
    assert other.mask.tolist() == [1, 2]
    assert other.extra.keys() == {"second/model"}
    assert other.metrics == {"accuracy/merged": 0.1}


def test_a_methods_state_travels_without_its_tensors() -> None:
    state = {"closed": True, "c": {"mean": torch.ones(2), "ids": [1, 2]}, "none": None}
    plain, found = split_tensors(state, "method")
    assert json.loads(json.dumps(plain))["closed"] is True
    assert found.keys() == {"method/c/mean"}
    joined = join_tensors(json.loads(json.dumps(plain)), found)
    assert joined["c"]["ids"] == [1, 2]
    assert joined["none"] is None
    assert torch.equal(joined["c"]["mean"], torch.ones(2))


def test_a_second_run_in_the_folder_is_refused_and_a_crash_leaves_no_lock(tmp_path: Path) -> None:
    code = f"""
import pathlib, time
from fedpurin.run.lock import RunLock
RunLock(pathlib.Path({str(tmp_path)!r})).acquire()
print("held", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert is_locked(tmp_path)
        with pytest.raises(ConfigError, match=f"is in use by process {other.pid} on "):
            RunLock(tmp_path).acquire()
        other.kill()
        other.wait()
    assert not is_locked(tmp_path)
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    assert not is_locked(tmp_path)


def test_a_reader_s_look_refuses_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".lock").touch()
    look = os.open(tmp_path / ".lock", os.O_RDONLY)
    fcntl.flock(look, fcntl.LOCK_SH)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            os.close(look)

    monkeypatch.setattr("fedpurin.run.lock.time.sleep", pause)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert pauses == [0.05, 0.05, 0.05]
    lock.release()


def test_another_user_s_run_is_seen_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, opened = RunLock(tmp_path), os.open
    lock.acquire()

    def of_another(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError
        return opened(path, flags, mode)

    monkeypatch.setattr("fedpurin.run.lock.os.open", of_another)  # root may write everything
    assert is_locked(tmp_path)
    lock.release()
    assert not is_locked(tmp_path)


def hold_run(tmp_path: Path, *overrides: str) -> None:
    """A folder in which a run of these options has done a round."""
    from omegaconf import OmegaConf

    config, _ = compose_config(overrides)
    OmegaConf.save(OmegaConf.create(json.loads(json.dumps(config.to_mapping()))), tmp_path / "config.yaml")
    (tmp_path / "metrics.jsonl").write_text('{"round": 0}\n')


def test_a_changed_option_that_changes_the_science_is_refused_by_name(tmp_path: Path) -> None:
    hold_run(tmp_path, "program.tau=0.5", "trainer.rounds=10")
    for free in ("trainer.rounds=20", "trainer.devices=2", "checkpoint.every=1", "tags=[a]", "trainer.accelerator=cpu"):
        check_folder(compose_config(["resume=auto", "trainer.rounds=10", free])[0], tmp_path)
    for option, began in (("program.tau=0.25", "0.5"), ("seed=4", "0"), ("trainer.threads=7", r"\w+")):
        with pytest.raises(ConfigError, match=rf"{option} \(it began with {began}\)"):
            check_folder(compose_config(["resume=auto", option])[0], tmp_path)
    with pytest.raises(ConfigError, match=r"data\.name=cifar10 .* and \d+ more"):
        check_folder(compose_config(["resume=auto", "experiment=paper_cifar10"])[0], tmp_path)
    with pytest.raises(ConfigError, match="holds a run already"):
        check_folder(compose_config([])[0], tmp_path)


def test_a_sweep_into_a_folder_with_runs_is_refused_before_hydra_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "sweep" / "0"
    run.mkdir(parents=True)
    hold_run(run, "seed=1")
    sweep = ["-m", "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert main(sweep) == 2
    assert "holds runs already (0): finish them with resume=auto" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "metrics.jsonl"]
    check_sweep_folder([*sweep, "resume=auto"])
    check_sweep_folder(["-m", "seed=1,2"])


def test_a_launcher_that_sets_resume_continues_its_sweep(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "0").mkdir()
    hold_run(tmp_path / "0", "seed=1")
    sweep = ["-m", "launcher=slurm", "seed=1,2", f"hydra.sweep.dir={tmp_path}"]
    check_sweep_folder(sweep, ["launcher=slurm", "seed=1"])
    with pytest.raises(ConfigError, match="holds runs already"):
        check_sweep_folder([*sweep, "resume=never"], ["launcher=slurm", "seed=1", "resume=never"])


def test_overrides_of_a_resume_are_checked(tmp_path: Path) -> None:
    config, _ = compose_config([])
    extended = with_overrides(config, ["trainer.rounds=300", "trainer.devices=4"])
    assert (extended.trainer.rounds, extended.trainer.devices, extended.resume) == (300, 4, "auto")
    tracked = with_overrides(config, ["logger=[csv,wandb]", "logger.wandb.project=p", "trainer.rounds=31"])
    assert (tracked.logger["wandb"]["project"], tracked.trainer.rounds) == ("p", 31)
    assert tracked.program == config.program
    for override, message in (
        ("logger=wandbb", "logger=wandbb: there is no such choice"),
        ("experiment=paper_cifar10", "experiment=...: a run that has begun takes its own options only"),
        ("trainer.round=3", "trainer.round: there is no such option"),
        ("+trainer.rounds=5", r"\+trainer.rounds=5: a run .* write trainer.rounds=5, without a sign"),
        ("trainer.rounds", "this is not an override"),
        ("trainer.rounds=0", "trainer.rounds=0 is not possible"),
    ):
        with pytest.raises(ConfigError, match=message):
            with_overrides(config, [override])


def test_a_checkpoint_put_aside_is_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "round-00010.aside").mkdir(parents=True)
    (tmp_path / "checkpoints" / "round-00012.aside-2").mkdir()
    assert not holds_run(tmp_path)
    assert how_to_continue(tmp_path).startswith("nothing was saved, and the run starts anew")
    (tmp_path / "checkpoints" / "round-00004").mkdir()
    assert holds_run(tmp_path)
    assert how_to_continue(tmp_path) == f"to continue after round 4: fedpurin resume {tmp_path}"


def test_every_free_option_exists() -> None:
    options = flatten(compose_config([])[0].to_mapping())
    from fedpurin.run.resume import FREE

    for free in FREE:
        assert any(is_free(option) and (option == free or option.startswith(f"{free}.")) for option in options) or (
            free == "logger"
        ), free
