"""Names that somebody else chose are text: on the page, in hovers, in figures and in spreadsheets."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
from pathlib import Path

import pytest

from fedpurin.cli.report import main
from fedpurin.report.table import Numbers
from tests.report.synthetic import Spec, write_run

SCRIPT = "<script>document.title='taken'</script>"
QUOTES = "\"'><img src=x onerror=alert(1)>"


@pytest.mark.slow
def test_hostile_names_reach_no_markup(tmp_path: Path) -> None:
    for index, method in enumerate(("local", "fedpurin")):
        named = {"choices.method": SCRIPT + method, "name": QUOTES, "tags": [SCRIPT]}
        run = write_run(tmp_path / f"{index}<script>", Spec(method, rounds=2, clients=2, options=named))
        partition = json.loads((run / "partition.json").read_text())
        partition["class_names"] = [SCRIPT, QUOTES, "=1+1", "$\\bad$ §zz/16"]
        (run / "partition.json").write_text(json.dumps(partition))
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    bare = re.sub(r"src='data:[^']*'", "", page)
    assert "<script>document" not in bare
    assert "<img src=x" not in bare
    assert "&lt;/script&gt;fedpurin" in bare  # the label, after the last dot of the choice
    packed = re.search(r"id='data'>([^<]*)<", page)
    assert packed is not None
    for key, panels in json.loads(gzip.decompress(base64.b64decode(packed[1])))["figures"].items():
        for panel in panels:
            for trace in panel["data"]:
                shown = json.dumps([value for name, value in trace.items() if name != "name"])
                assert "<script" not in shown, key
                assert "<img" not in shown, key
            assert "<script" not in json.dumps([panel["layout"]["xaxis"], panel["layout"]["yaxis"]]), key
    with (tmp_path / "out" / "figures" / "partition.csv").open() as file:
        assert {row["class"] for row in csv.DictReader(file)} >= {"'=1+1", SCRIPT}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_a_cell_that_would_be_a_formula_is_text(text: str) -> None:
    assert Numbers(("a", "b"), [[text, -0.5]]).to_csv() == f"a,b\n'{text},-0.5\n"
