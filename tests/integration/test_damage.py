"""Run folders with files missing, torn, of another run, or of another kind: resume gives the same bits, or one line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import fedpurin
from fedpurin import ConfigError
from fedpurin.run.build import build
from fedpurin.run.checkpoint import find_all
from fedpurin.run.growing import check_places
from fedpurin.run.resume import is_finished
from fedpurin.run.stored_config import read_config
from tests.integration.test_resume import Fails, assert_same, read_clients, read_metrics
from tests.methods.tiny import TEST, TRAIN, Tiny, simulate

OPTIONS = ("method=fedpurin", "method.beta=4", "trainer.rounds=4", "checkpoint.every=1", "partition.num_clients=2")


@cache
def prepared() -> tuple[fedpurin.RunResult, Path, Path]:
    """A whole run; one that an error ended after three of the four rounds; and such a one with another seed."""
    folder = Path(mkdtemp(prefix="fedpurin-damage-"))
    whole = simulate(folder / "whole", *OPTIONS)
    for name, seed in (("parts", 0), ("other", 1)):
        with pytest.raises(RuntimeError, match="the power went"):
            simulate(folder / name, *OPTIONS, f"seed={seed}", callbacks=[Fails(3)])
    return whole, folder / "parts", folder / "other"


def resume(run_dir: Path) -> fedpurin.RunResult | None:
    """What `fedpurin resume` does, with the tiny module and data; None where the run is finished already."""
    check_places(run_dir)
    config = replace(read_config(run_dir), resume="auto")
    if is_finished(config, run_dir):
        return None
    federation = build(config, run_dir, module=Tiny(), train=TRAIN, test=TEST)
    return fedpurin.RunResult(run_dir, federation.run(), federation)


def resumed(source: Path, run_dir: Path, damage: Callable[[Path], object]) -> fedpurin.RunResult | None:
    shutil.rmtree(run_dir, ignore_errors=True)
    shutil.copytree(source, run_dir)
    damage(run_dir)
    return resume(run_dir)


def newest(run_dir: Path) -> Path:
    return find_all(run_dir)[0].path


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "clients.csv").unlink(), "clients.csv is missing, and is written anew"),
        (lambda run: (run / "clients.csv").write_text("round,cl"), "clients.csv differs from the checkpoint's copy"),
        (lambda run: (run / "masks.jsonl").unlink(), "masks.jsonl is missing, and is written anew"),
        (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\0"), "metrics.jsonl differs from the checkpoint's"),
        (lambda run: (newest(run) / "state.json").write_text("[]"), "damaged checkpoint skipped"),
        (lambda run: (newest(run) / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
        (lambda run: shutil.rmtree(newest(run) / "tensors"), "cannot be read (No such file or directory)"),
        (lambda run: (run / "environment.json").write_text("[1"), ""),
        (lambda run: (run / "summary.json").write_text('{"status": "finished", "rounds": 9}'), ""),
        (lambda run: [(run / name).unlink() for name in ("summary.json", "partition.json", ".lock")], ""),
    ],
)  # fmt: skip
def test_what_can_be_saved_is_saved(
    damage: Callable[[Path], object], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, parts, _ = prepared()
    result = resumed(parts, tmp_path / "run", damage)
    assert result is not None
    assert_same(whole, result)
    assert (result.run_dir / "masks.jsonl").read_bytes() == (whole.run_dir / "masks.jsonl").read_bytes()
    assert said in caplog.text


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "config.yaml").unlink(), "it has no config.yaml"),
        (lambda run: tear(run / "config.yaml"), "config.yaml is (cut short|damaged)"),
        (lambda run: of_another_version(run / "config.yaml"), "config.yaml: .*lanes"),
        (lambda run: [of_another_format(path.path) for path in find_all(run)], "checkpoints have format 99, this vers"),
        (lambda run: shutil.copy(prepared()[2] / "config.yaml", run), "is a checkpoint of another run .*is sound"),
        (lambda run: [tear(path.path / "state.json") for path in find_all(run)], "none of the run's 2 checkpoints"),
        (lambda run: (run / "clients.csv").unlink() or (run / "clients.csv").mkdir(), "clients.csv is not a file"),
        (lambda run: shutil.rmtree(run / "checkpoints") or (run / "checkpoints").touch(), "is not a folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_named_and_left_as_it_is(
    damage: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    _, parts, _ = prepared()
    with pytest.raises(ConfigError, match=said) as refusal:
        resumed(parts, tmp_path / "run", damage)
    assert "\n" not in str(refusal.value)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()


def test_another_run_s_checkpoint_of_the_same_rounds_is_skipped_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, parts, other = prepared()

    def swap(run: Path) -> None:
        shutil.rmtree(newest(run))
        shutil.copytree(newest(other), run / "checkpoints" / "round-00003")

    result = resumed(parts, tmp_path / "run", swap)
    assert result is not None
    assert_same(whole, result)
    assert "round-00003 is a checkpoint of another run" in caplog.text
    assert (tmp_path / "run" / "checkpoints" / "round-00003.aside" / "manifest.json").exists()


def test_a_finished_run_s_damage_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, *_ = prepared()
    assert resumed(whole.run_dir, tmp_path / "run", lambda run: None) is None
    result = resumed(whole.run_dir, tmp_path / "run", lambda run: tear(run / "clients.csv"))
    assert result is not None
    assert_same(whole, result)
    assert "clients.csv differs from the checkpoint's copy" in caplog.text


@pytest.mark.parametrize("name", ["clients.csv", "masks.jsonl"])
def test_a_finished_run_s_record_that_is_missing_with_its_copy_comes_back(name: str, tmp_path: Path) -> None:
    whole, *_ = prepared()
    lose = lambda run: [(folder / name).unlink() for folder in (run, newest(run) / "lines")]  # noqa: E731
    result = resumed(whole.run_dir, tmp_path / "run", lose)
    assert result is not None
    assert_same(whole, result)
    assert (result.run_dir / "masks.jsonl").read_bytes() == (whole.run_dir / "masks.jsonl").read_bytes()


def test_a_column_that_came_later_is_no_damage_to_the_bits(tmp_path: Path) -> None:
    """Its table was written anew, with the column empty in earlier rows: lengths of before say nothing any more."""
    whole, parts, _ = prepared()

    def widen(run: Path) -> None:
        head, *rows = (run / "clients.csv").read_text().splitlines()
        (run / "clients.csv").write_text("\n".join([f"{head},late", *(f"{row}," for row in rows)]) + "\n")
        tear(newest(run) / "tensors" / ".metadata")

    result = resumed(parts, tmp_path / "run", widen)
    assert result is not None
    assert_same(whole, result)


def of_another_version(config: Path) -> None:
    """Without a last line, as an earlier version wrote it, and with an option that this one does not know."""
    config.write_text("lanes: 2\n" + config.read_text().rpartition("# run ")[0])


def of_another_format(checkpoint: Path) -> None:
    """A whole checkpoint, with digests that agree."""
    path = checkpoint / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"]["state.json"] = {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def mutate(run: Path, change: tuple[str, int, float, int], other: Path) -> None:
    """One damage to one file or folder, chosen by numbers so that hypothesis can shrink it; `other` is another run."""
    kind, index, where, byte = change
    paths = sorted(path for path in run.rglob("*") if path.is_file())
    if not paths:
        return
    path = paths[index % len(paths)]
    size = path.stat().st_size
    at = int(where * size)
    if kind == "remove":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:at])
    elif kind == "flip" and size:
        content = bytearray(path.read_bytes())
        content[min(at, size - 1)] ^= byte
        path.write_bytes(content)
    elif kind == "append":
        path.write_bytes(path.read_bytes() + bytes([byte] * 3))
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "foreign" and (other / path.relative_to(run)).is_file():
        path.write_bytes((other / path.relative_to(run)).read_bytes())
    elif kind == "swap":
        twin = paths[byte % len(paths)]
        content, theirs = path.read_bytes(), twin.read_bytes()
        path.write_bytes(theirs), twin.write_bytes(content)
    elif kind == "remove folder" and path.parent != run:
        shutil.rmtree(path.parent)


KINDS = ("remove", "cut", "flip", "append", "folder", "foreign", "swap", "remove folder")
CHANGES = st.tuples(st.sampled_from(KINDS), st.integers(0, 40), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
Damages = list[tuple[str, int, float, int]]


def check_mutated(run_dir: Path, damages: Damages, finished: bool) -> None:
    whole, parts, _ = prepared()

    def damage(run: Path) -> Any:
        for change in damages:
            mutate(run, change, prepared()[2])

    try:
        result = resumed(whole.run_dir if finished else parts, run_dir, damage)
    except ConfigError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        event("refused in a line")
        assert "\n" not in refusal
        return
    event("finished already" if result is None else "went on to the same bits")
    if result is not None:
        assert_same(whole, result)
    assert read_metrics(run_dir) == read_metrics(whole.run_dir)
    assert read_clients(run_dir) == read_clients(whole.run_dir)
    assert (run_dir / "masks.jsonl").read_bytes() == (whole.run_dir / "masks.jsonl").read_bytes()


FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@given(damages=st.lists(CHANGES, min_size=1, max_size=3), finished=st.booleans())
@settings(max_examples=12, **FUZZ)  # type: ignore[arg-type]
def test_a_mutated_folder_gives_the_same_bits_or_one_line(
    damages: Damages, finished: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_mutated(tmp_path_factory.getbasetemp() / "mutated", damages, finished)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(damages=st.lists(CHANGES, min_size=1, max_size=4), finished=st.booleans())
@settings(max_examples=int(os.environ.get("DAMAGED_FOLDERS", "400")), **FUZZ)  # type: ignore[arg-type]
def test_hundreds_of_mutated_folders(
    damages: Damages, finished: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_mutated(tmp_path_factory.getbasetemp() / "mutated", damages, finished)
