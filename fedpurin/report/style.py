"""Colours, dashes and markers: one meaning, one look, in every figure and on the page.

Colours are named (`c0` … `c5`, `muted`, `r0` … `r7`, `ink`) and looked up per theme, so that the page can switch
between light and dark. `c*` are Okabe & Ito's, safe for colour-blind readers, without the two that vanish on white;
past six, dashes and markers tell series apart. `r*` is a ramp of ordered lightness for a swept number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

LIGHT = {
    "c0": "#0072b2", "c1": "#d55e00", "c2": "#009e73", "c3": "#b8588f", "c4": "#c98a00", "c5": "#3ba7e0",
    "r0": "#33105c", "r1": "#482a78", "r2": "#3d4d8a", "r3": "#2f6c8e",
    "r4": "#23898e", "r5": "#20a486", "r6": "#4cb96b", "r7": "#8bc53f",
    "muted": "#636b78", "ink": "#1c2430", "grid": "#e3e6ea", "paper": "#ffffff",
}  # fmt: skip
DARK = {
    "c0": "#4ba3e3", "c1": "#ff8a4c", "c2": "#2ec99b", "c3": "#e59bc6", "c4": "#f0bb4a", "c5": "#a5dcff",
    "r0": "#7b6bd6", "r1": "#6d7fe0", "r2": "#5b93dd", "r3": "#46a6cf",
    "r4": "#38b8b8", "r5": "#46c79a", "r6": "#7fd275", "r7": "#c8de58",
    "muted": "#98a1af", "ink": "#e4e8ee", "grid": "#2c333d", "paper": "#14181d",
}  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot")
NUM_COLOURS, NUM_RAMP = 6, 8
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon")

NUM_STYLES = 24  # colours times dashes: past these, looks repeat


@dataclass(frozen=True)
class Style:
    """How a series is drawn. `quiet` series are context: thin, and left out of the legend."""

    colour: str = "ink"
    dash: str = "solid"
    marker: str = "circle"
    quiet: bool = False

    def silenced(self) -> Style:
        return replace(self, colour="muted", dash="solid", quiet=True)


REFERENCE = Style("muted", "dash")


def categorical(index: int) -> Style:
    """The style of the index-th thing of equal standing."""
    dash = DASHES[index // NUM_COLOURS % len(DASHES)]
    return Style(f"c{index % NUM_COLOURS}", dash, MARKERS[index % len(MARKERS)])


def ordered(index: int, count: int) -> Style:
    """The style of the index-th of `count` things that have an order."""
    step = round(index * (NUM_RAMP - 1) / max(count - 1, 1))
    return Style(f"r{step}", "solid", MARKERS[index % len(MARKERS)])
