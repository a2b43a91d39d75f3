"""A study's picture: accuracy against bytes, or the gain over the reference as a matrix.

Owns: which numbers are drawn. Does not own: how (report/figure.py, report/draw.py).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fedpurin.report.draw import draw_files
from fedpurin.report.figure import Axis, Figure, Grid, Level, Line, Mark, Panel, Points
from fedpurin.report.style import REFERENCE, categorical
from fedpurin.report.table import Numbers as Table
from fedpurin.study.compare import CellNumbers, Numbers
from fedpurin.study.plan import Study


def draw(study: Study, numbers: Numbers) -> bytes | None:
    """The study's figure as PNG; None where it has none."""
    if study.figure == "none" or not numbers.cells:
        return None
    panels = _heat(study, numbers) if study.figure == "heat" else _against_bytes(study, numbers)
    columns = ("setting", "variant", "accuracy", "megabytes")
    rows = [(cell.setting, cell.variant, cell.accuracy.mean, cell.megabytes) for cell in numbers.cells]
    figure = Figure(
        key=study.name,
        title=study.title,
        caption="",
        panels=panels,
        numbers=Table(columns, rows),
        legend=study.figure == "bytes",
        columns=2,
    )
    return draw_files(figure, dpi=110, kinds=("png",))["png"]


def _against_bytes(study: Study, numbers: Numbers) -> list[Panel]:
    """Points with their intervals; the variants of a curve as a line without, or the intervals would hide each other."""
    joined = {variant: curve for curve, variants in study.curves.items() for variant in variants}
    labels = list(dict.fromkeys(joined.get(variant, variant) for variant in study.variants))
    styles = {label: categorical(index) for index, label in enumerate(labels)}
    panels = []
    for setting in study.all_settings:
        cells = [cell for cell in numbers.cells if cell.setting == setting]
        silent = [cell for cell in cells if cell.megabytes == 0]
        marks: list[Mark] = [_silent(cell, index) for index, cell in enumerate(silent)]
        sending = [cell for cell in cells if cell.megabytes > 0]
        for label in labels:
            members = [cell for cell in sending if joined.get(cell.variant, cell.variant) == label]
            members.sort(key=lambda cell: cell.megabytes)
            x = np.array([cell.megabytes * 1e6 for cell in members])
            y = np.array([cell.accuracy.mean for cell in members])
            if label in study.curves and members:
                marks.append(Line(label, x, y, styles[label], markers=True))
            elif members:
                error = np.array([(cell.accuracy.high - cell.accuracy.low) / 2 for cell in members])
                marks.append(Points(label, x, y, styles[label], y_error=error))
        panels.append(
            Panel(
                Axis("Sent by all in a run", "bytes", log=True), Axis("Personalised accuracy", "share"), marks, setting
            )
        )
    return panels


def _silent(cell: CellNumbers, index: int) -> Level:
    """What sends nothing has no place on the axis of bytes: a line across."""
    return Level(
        f"{cell.variant} (sends nothing)",
        cell.accuracy.mean,
        REFERENCE if index == 0 else replace(REFERENCE, dash="dot"),
    )


def _heat(study: Study, numbers: Numbers) -> list[Panel]:
    """Gain over the reference, rows are variants, columns are settings."""
    variants = [variant for variant in study.variants if variant != study.measured_against]
    settings = list(study.all_settings)
    by_place = {(cell.setting, cell.variant): cell for cell in numbers.cells}
    values = np.full((len(variants), len(settings)), math.nan)
    for row, variant in enumerate(variants):
        for column, setting in enumerate(settings):
            if (cell := by_place.get((setting, variant))) is not None:
                values[row, column] = cell.gain.mean
    most = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    grid = Grid(f"Gain over {study.measured_against}", values, "points", low=-most, high=most)
    x, y = Axis("", categories=tuple(settings)), Axis("", categories=tuple(variants))
    return [Panel(x, y, [grid], f"Gain over {study.measured_against}", rows=max(0.8, 0.25 * len(variants)))]
