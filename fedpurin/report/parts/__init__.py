"""The page's six parts, one file each: what is drawn, from which of the runs' records."""

from __future__ import annotations

from fedpurin.report.comparison import Comparison
from fedpurin.report.figure import Section
from fedpurin.report.parts import accuracy, clients, costs, masks, overview, sweep


def sections(comparison: Comparison) -> list[Section]:
    """All parts in the order of the page."""
    return [part.section(comparison) for part in (overview, accuracy, sweep, clients, masks, costs)]
