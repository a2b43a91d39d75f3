"""Growing files come back to a checkpoint; what was found instead is kept; config.yaml and its last line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpurin.config import ConfigError
from fedpurin.run.compose import compose_config
from fedpurin.run.growing import LINES, bring_back, check_places, copy_files, is_intact, put_aside
from fedpurin.run.stored_config import read_config, read_id, write_config

WHOLE = '{"round": 0}\n{"round": 1}\n'


def test_files_are_brought_back_to_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(WHOLE)
    (tmp_path / "clients.csv").write_text("round,client\n0,0\n1,0\n")
    copy_files(tmp_path, tmp_path / "kept" / LINES)
    (tmp_path / "metrics.jsonl").write_text(WHOLE + '{"round": 2}\n{"rou')
    (tmp_path / "clients.csv").write_text("round,client\n0,0\n1,1\n2,0\n")  # another row
    (tmp_path / "masks.jsonl").write_text("later\n")
    assert not is_intact(tmp_path, tmp_path / "kept" / LINES)
    bring_back(tmp_path, tmp_path / "kept" / LINES, {})
    assert (tmp_path / "metrics.jsonl").read_text() == WHOLE
    assert (tmp_path / "clients.csv").read_text() == "round,client\n0,0\n1,0\n"
    assert (tmp_path / "clients.csv.aside").read_text() == "round,client\n0,0\n1,1\n2,0\n"
    assert not (tmp_path / "masks.jsonl").exists()
    assert is_intact(tmp_path, tmp_path / "kept" / LINES)


def test_an_earlier_version_s_checkpoint_has_lengths_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.jsonl").write_text(WHOLE + '{"round": 2}\n')
    (tmp_path / "clients.csv").write_text("round\n")
    (tmp_path / "mine.csv").write_text("1\n")
    bring_back(tmp_path, tmp_path / "none", {"metrics.jsonl": len(WHOLE), "clients.csv": 9})
    assert (tmp_path / "metrics.jsonl").read_text() == WHOLE
    assert "clients.csv has lost bytes since the checkpoint: 6 of 9 are left" in caplog.text
    assert (tmp_path / "mine.csv.aside").read_text() == "1\n"


def test_rounds_without_any_checkpoint_are_kept_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.jsonl").write_text(WHOLE + '{"rou')
    (tmp_path / "clients.csv").write_text("round,client\n")
    bring_back(tmp_path, None, {})
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl.aside", "clients.csv.aside"}
    assert (tmp_path / "metrics.jsonl.aside").read_text() == WHOLE + '{"rou'
    assert "no checkpoint is left of the 2 rounds that were done; the run begins anew" in caplog.text
    (tmp_path / "metrics.jsonl").write_text('{"rou')  # nothing that a round took
    bring_back(tmp_path, None, {})
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl.aside", "clients.csv.aside"}


def test_what_is_put_aside_replaces_nothing(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "a.csv").write_text(str(number))
        put_aside(tmp_path / "a.csv", "is old")
    names = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert names == {"a.csv.aside": "0", "a.csv.aside-2": "1", "a.csv.aside-3": "2"}


def test_a_link_out_of_the_folder_and_a_folder_in_a_file_s_place_are_named(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    check_places(run)
    (run / "notes.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"notes.jsonl is a link to .*other, outside the run folder"):
        check_places(run)
    (run / "notes.jsonl").unlink()
    (run / "environment.json").mkdir()
    with pytest.raises(ConfigError, match=r"environment.json is not a file, and one of the run's files belongs there"):
        check_places(run)


def test_the_configuration_of_another_run_a_torn_and_a_changed_one_are_told_apart(tmp_path: Path) -> None:
    config = compose_config(["seed=3"])[0]
    write_config(tmp_path, config, "0123456789abcdef")
    assert (read_config(tmp_path), read_id(tmp_path)) == (config, "0123456789abcdef")
    path = tmp_path / "config.yaml"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"seed: 3", b"seed: 4"))
    with pytest.raises(ConfigError, match=r"is not what the run wrote: it is damaged, or was changed by hand"):
        read_config(tmp_path)
    path.write_bytes(b"\n".join(whole.replace(b"seed: 3", b"seed: 4").split(b"\n")[:-2]) + b"\n")  # changed on purpose
    assert (read_config(tmp_path).seed, read_id(tmp_path)) == (4, None)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"config.yaml is (cut short|damaged)"):
        read_config(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"config.yaml is damaged: it is not a configuration"):
        read_config(tmp_path)
