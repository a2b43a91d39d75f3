"""Colours, dashes and markers: one meaning, one look, in every figure and on the page.

A method has a hue (`c0` … `c5`; past six, its dashes tell it apart), its levels are shades of that hue (`c0s0` … `c0s8`,
from faint to strong). Colours are looked up per theme, so that the page can switch between light and dark. The hues are
Okabe & Ito's order, safe for colour-blind readers, set to stand out from both papers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

NUM_COLOURS, NUM_SHADES = 6, 9
FAINTEST, STRONGEST = 3.0, 12.0
"""Contrast with the paper of a hue's first and last shade: WCAG asks 3 of what is drawn."""

Theme = dict[str, str]


def luminance(colour: str) -> float:
    """WCAG's relative luminance of `#rrggbb`."""
    parts = [channel / 255 for channel in _channels(colour)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mix(colour: str, other: str, share: float) -> str:
    """`share` of `other` in `colour`."""
    pairs = zip(_channels(colour), _channels(other), strict=True)
    return "#" + "".join(f"{round((1 - share) * one + share * two):02x}" for one, two in pairs)


def with_shades(theme: Theme) -> Theme:
    """The theme and the shades of its hues, equally apart in contrast with the paper."""
    ratio = (STRONGEST / FAINTEST) ** (1 / (NUM_SHADES - 1))
    shades = {
        f"c{hue}s{step}": _at_contrast(theme, f"c{hue}", FAINTEST * ratio**step)
        for hue in range(NUM_COLOURS)
        for step in range(NUM_SHADES)
    }
    return theme | shades


def _at_contrast(theme: Theme, hue: str, wanted: float) -> str:
    """The hue, mixed with paper or ink until its contrast with the paper is at least `wanted`."""
    colour, paper = theme[hue], theme["paper"]
    is_faint = contrast(colour, paper) < wanted
    shares = [step / 64 for step in range(65)]
    if is_faint:
        mixed = [mix(colour, theme["ink"], share) for share in shares]
        return next((each for each in mixed if contrast(each, paper) >= wanted), mixed[-1])
    mixed = [mix(colour, paper, share) for share in shares]
    return next(each for each in reversed(mixed) if contrast(each, paper) >= wanted)


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


LIGHT = with_shades({
    "c0": "#0072b2", "c1": "#d55e00", "c2": "#008f68", "c3": "#b8588f", "c4": "#b37a00", "c5": "#6a5acd",
    "muted": "#5c6470", "ink": "#1c2430", "grid": "#e3e6ea", "paper": "#ffffff",
})  # fmt: skip
DARK = with_shades({
    "c0": "#4ba3e3", "c1": "#ff8a4c", "c2": "#2ec99b", "c3": "#e59bc6", "c4": "#f0bb4a", "c5": "#a99cf0",
    "muted": "#98a1af", "ink": "#e4e8ee", "grid": "#2c333d", "paper": "#14181d",
})  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon")


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
LOCAL = Style("muted", "dash", "x")
"""Separate training, which the others are measured against."""


def categorical(index: int, level: int = 0, levels: int = 1) -> Style:
    """The style of the index-th thing of equal standing, or of one of its `levels`, which have an order."""
    hue = f"c{index % NUM_COLOURS}"
    if levels > 1:
        hue += f"s{round(level * (NUM_SHADES - 1) / (levels - 1))}"
    return Style(hue, DASHES[index // NUM_COLOURS % len(DASHES)], MARKERS[(index + level) % len(MARKERS)])
