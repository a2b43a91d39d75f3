"""Figures for papers: as wide as the column, in its font, and mistakes in a line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fedpurin.cli.report import main
from fedpurin.config import ConfigError
from fedpurin.report.draw import draw_files
from fedpurin.report.figure import Axis, Figure, Line, Panel
from fedpurin.report.look import LOOKS, choose_look
from fedpurin.report.style import Style
from fedpurin.report.table import Numbers
from tests.report.synthetic import Spec, write_run

LINE = Line("fedavg τ=0.5 ± 1", np.array([1.0, 2.0]), np.array([0.5, 0.75]), Style("c0"))
PANEL = Panel(Axis("Round", "count"), Axis("Accuracy", "share"), [LINE])


def figure(panels: int = 1) -> Figure:
    return Figure("k", "t", "c", [PANEL] * panels, Numbers((), ()))


@pytest.mark.parametrize(("style", "points"), [("ieee", 3.5 * 72), ("neurips", 5.5 * 72)])
def test_a_pdf_is_as_wide_as_the_column_and_embeds_its_fonts(style: str, points: float) -> None:
    pdf = draw_files(figure(3), look=LOOKS[style], kinds=("pdf",))["pdf"]
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)
    assert box is not None
    assert float(box[1]) == pytest.approx(points)
    assert b"/Subtype /Type0" in pdf  # 42: TrueType, which journals take; Type 3 they do not
    assert b"STIXGeneral" in pdf or b"TimesNewRoman" in pdf
    assert b"/CreationDate" not in pdf


def test_a_narrow_column_puts_fewer_panels_beside_each_other() -> None:
    assert [LOOKS[name].columns(3) for name in ("plain", "neurips", "ieee")] == [3, 3, 2]
    assert LOOKS["ieee"].columns(1) == 1
    assert [LOOKS[name].columns(2, named=True) for name in ("plain", "neurips", "ieee")] == [2, 2, 1]
    assert choose_look("ieee", width=7.16).columns(4) == 4


def test_width_and_font_override_the_style() -> None:
    look = choose_look("neurips", width=4.0, font="DejaVu Serif", font_size=10.0)
    assert (look.width, look.font_size, look.families) == (4.0, 10.0, ("DejaVu Serif", "DejaVu Sans"))
    assert b"DejaVuSerif" in draw_files(figure(), look=look, kinds=("pdf",))["pdf"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--width", "0.5"], "--width 0.5: 2 to 20 inches are required"),
        (["--font-size", "99"], "--font-size 99: 4 to 24 pt are required"),
        (["--font", "DejaVu Sanz Mono"], "--font DejaVu Sanz Mono: matplotlib finds no such font here; it has "),
    ],
)
def test_a_look_that_cannot_be_is_a_line_before_anything_is_read(options: list[str], line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        main([str(tmp_path / "absent"), *options])


def test_the_command_draws_in_the_style(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Spec("fedavg", rounds=2, clients=2))
    assert main([str(run), "--out", str(tmp_path / "out"), "--style", "ieee"]) == 0
    assert 'width="252pt"' in (tmp_path / "out" / "figures" / "accuracy_by_round.svg").read_text()
