"""The command from run folders to files: the table against the raw files, the page by itself, mistakes in a line."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from fedpurin.cli.report import main, read_runs, write_report
from fedpurin.config import ConfigError
from fedpurin.report.comparison import compare
from tests.report.conftest import SPECS
from tests.report.synthetic import Spec, write_run

FIGURES = {
    "accuracy_by_round", "accuracy_by_bytes", "pareto", "by_option", "trade_off", "client_accuracy", "partition",
    "gains", "mask_movement", "mask_density", "overlap_1", "collaboration_1", "solver", "ledger_phase",
}  # fmt: skip


def test_every_figure_has_its_files(report: Path) -> None:
    stems = {path.stem for path in (report / "figures").iterdir()}
    assert stems >= FIGURES
    assert {path.name for path in (report / "figures").iterdir()} == {
        f"{stem}.{kind}" for stem in stems for kind in ("png", "svg", "pdf", "csv")
    }
    assert {path.name for path in (report / "tables").iterdir()} == {
        f"{stem}.{kind}" for stem in ("comparison", "gains_summary") for kind in ("csv", "tex")
    }


def test_the_table_is_what_the_raw_files_say(sweep: Path, report: Path) -> None:
    """Recomputed with loops from metrics.jsonl alone."""
    with (report / "tables" / "comparison.csv").open() as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert list(rows) == [
        "local", "fedavg", "fedpurin", "fedpurin_recommended τ=0.1", "fedpurin_recommended τ=0.5",
    ]  # fmt: skip
    for label, row in rows.items():
        accuracies, ups, savings = [], [], []
        for index, spec in enumerate(SPECS):
            tau = spec.options.get("program.tau")
            if label != (spec.method if tau is None else f"{spec.method} τ={tau}"):
                continue
            lines = [json.loads(line) for line in (sweep / str(index) / "metrics.jsonl").read_text().splitlines()]
            accuracies.append(lines[-1]["accuracy/personalized"])
            taking_part = sum(line["clients/participating"] for line in lines)
            ups.append(sum(line["bytes/up"] for line in lines) / taking_part)
            sent = sum(line["bytes/up"] + line["bytes/down"] for line in lines)
            dense = sum(line.get("bytes/dense_up", 0) + line.get("bytes/dense_down", 0) for line in lines)
            savings.append(1 - sent / dense if dense else np.nan)
        assert int(row["seeds"]) == len(accuracies) == 2
        assert float(row["accuracy_final_mean"]) == pytest.approx(sum(accuracies) / 2)
        assert float(row["accuracy_final_std"]) == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
        assert float(row["bytes_up_mean"]) == pytest.approx(sum(ups) / 2)
        assert float(row["reduction_mean"] or "nan") == pytest.approx(sum(savings) / 2, nan_ok=True)


def test_gains_are_paired_by_seed_and_client(sweep: Path, report: Path) -> None:
    def final(index: int) -> dict[str, float]:
        with (sweep / str(index) / "clients.csv").open() as file:
            return {row["client"]: float(row["accuracy/personalized"]) for row in csv.DictReader(file)}

    with (report / "figures" / "gains.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "fedavg"]
    assert len(rows) == 12
    for row in rows:  # local is runs 0 and 1, FedAvg 2 and 3
        seed, client = int(row["seed"]), row["client"]
        assert float(row["gain"]) == pytest.approx(final(1 + seed)[client] - final(seed - 1)[client])


def test_latex_marks_the_best(report: Path) -> None:
    text = (report / "tables" / "comparison.tex").read_text()
    assert r"\toprule" in text
    assert r"fedpurin\_recommended $\tau$=0.1 & 2 & " in text
    assert r"\multicolumn{1}{c}{} & \multicolumn{1}{c}{} & \multicolumn{4}{c}{Personalised accuracy (\%)}" in text
    assert r"\cmidrule(lr){3-6}" in text
    assert len(re.findall(r"\\textbf{[\d.]+ \$\\pm\$ [\d.]+}", text)) >= 1


def test_the_page_needs_nothing_from_anywhere(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert len(page) < 4 * 2**20
    outside = re.sub(r"<script type='text/plain'.*?</script>|src='data:[^']*'", "", page, flags=re.S)
    assert not re.search(r"""(src|href)\s*=\s*['"]?(https?:)?//""", outside)
    assert "@import" not in outside
    assert not re.search(r"url\(", outside)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert "name='viewport'" in page


def test_the_page_holds_the_figures_and_the_numbers_behind_them(report: Path) -> None:
    page = (report / "report.html").read_text()
    packed = re.search(r"<script type='text/plain' id='data'>([^<]*)<", page)
    assert packed is not None
    data = json.loads(gzip.decompress(base64.b64decode(packed[1])))
    assert data["figures"].keys() >= FIGURES
    for key in data["figures"]:
        assert data["files"][f"figures/{key}.csv"] == (report / "figures" / f"{key}.csv").read_text()
        assert f"href='figures/{key}.csv'" in page
    assert "<figure id='ledger_phase'><h3>Bytes by phase</h3>" in page
    ids = re.findall(r"\bid='([^']+)'", page)
    assert len(ids) == len(set(ids))
    library = re.search(r"id='library'>([^<]*)<", page)
    assert library is not None
    assert gzip.decompress(base64.b64decode(library[1])).startswith(b"/**\n* plotly.js")


def test_every_axis_has_a_name(report: Path) -> None:
    page = (report / "report.html").read_text()
    packed = re.search(r"id='data'>([^<]*)<", page)
    assert packed is not None
    for key, panels in json.loads(gzip.decompress(base64.b64decode(packed[1])))["figures"].items():
        for panel in panels:
            for axis in (panel["layout"]["xaxis"], panel["layout"]["yaxis"]):
                named = axis.get("visible") is False or axis["title"]["text"] or axis.get("ticktext")
                assert named, f"{key}: an axis without a name"


def test_another_x_changes_part_3_and_no_other_file(sweep: Path, report: Path, tmp_path: Path) -> None:
    assert main([str(sweep), "--out", str(tmp_path), "--x", "method"]) == 0
    header = (tmp_path / "figures" / "by_option.csv").read_text().splitlines()[0]
    assert header == "setting,figure,label,method,mean,std,seeds"
    for path in sorted((report / "figures").iterdir()):
        if path.stem not in ("by_option", "trade_off"):
            assert (tmp_path / "figures" / path.name).read_bytes() == path.read_bytes(), path.name


def test_problems_stand_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs" / "0", Spec("fedavg", rounds=2, clients=2))
    (tmp_path / "runs" / "1" / ".hydra").mkdir(parents=True)
    cut = write_run(tmp_path / "runs" / "<2>", Spec("fedavg", seed=2, rounds=2, clients=2)) / "metrics.jsonl"
    cut.write_bytes(cut.read_bytes()[:-4])
    assert main([str(tmp_path / "runs"), str(tmp_path / "absent"), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "2 folders skipped" in page
    assert "config.yaml is missing" in page
    assert "there is no such folder" in page
    assert "line 2 cut off or broken, the 1 whole lines are used" in page
    assert "&lt;2&gt;" in page
    assert "<2>" not in page
    assert "config.yaml is missing (skipped)" in capsys.readouterr().err


@pytest.mark.parametrize("files", [["config.yaml", "metrics.jsonl"], ["config.yaml", "metrics.jsonl", "clients.csv"]])
def test_what_can_be_drawn_is_drawn(tmp_path: Path, files: list[str]) -> None:
    """A run of which only the essentials are left, and of a single round."""
    run = write_run(tmp_path / "run", Spec("fedpurin", rounds=1, clients=2))
    for path in run.iterdir():
        if path.name not in files:
            path.unlink()
    assert main([str(run), "--out", str(tmp_path / "out")]) == 0


def test_the_terminal_sees_how_far_the_work_is(sweep: Path, tmp_path: Path) -> None:
    screen = io.StringIO()
    with Progress(console=Console(file=screen, force_terminal=True, width=100), transient=True) as progress:
        runs, _ = read_runs([sweep], progress)
        write_report(compare(runs[:1]), tmp_path, progress=progress)
        progress.refresh()
    assert "Reading runs" in screen.getvalue()
    assert "Drawing figures" in screen.getvalue()
    assert "100%" in screen.getvalue()


def test_nothing_to_report_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"report: no usable run in .*absent \(.*absent: there is no such folder\)"):
        main([str(tmp_path / "absent")])


def test_a_folder_that_cannot_be_written_is_a_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Spec("local", rounds=1, clients=2))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--out .*file.* cannot be written: Not a directory"):
        main([str(run), "--out", str(tmp_path / "file" / "out")])


def test_exit_codes_and_no_engine(tmp_path: Path) -> None:
    """Code 2 and one line through the real command, which needs neither torch nor lightning for this."""
    done = subprocess.run(
        [sys.executable, "-m", "fedpurin", "report", str(tmp_path / "absent")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    code = "import sys, fedpurin.cli.report; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
