"""How large figures are and in which font: for the page, or for a column of a paper.

Owns: widths, font sizes and families of `--style`, and whether a font is there. Does not own colours and markers
(style.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedpurin.config import ConfigError

NARROWEST, NARROWEST_NAMED = 1.7, 2.6
"""Inches of a panel (with names on its y axis) below which its labels leave it no place: fewer stand beside each other.
"""
WIDTHS = (2.0, 20.0)
SIZES = (4.0, 24.0)
FALLBACK = "DejaVu Sans"  # has every symbol, and comes with matplotlib


@dataclass(frozen=True)
class Look:
    """`width` is that of the whole figure in inches; none lets it grow with its panels."""

    width: float | None = None
    font_size: float = 9.0
    families: tuple[str, ...] = (FALLBACK,)
    line_width: float = 1.6

    def columns(self, wanted: int, named: bool = False) -> int:
        """Panels beside each other, at most `wanted`; `named` if they have names on their y axes."""
        if self.width is None:
            return wanted
        return max(1, min(wanted, int(self.width / (NARROWEST_NAMED if named else NARROWEST))))

    def size(self, columns: int) -> tuple[float, float]:
        """Inches of the figure's width, and of the height of a usual row of panels."""
        if self.width is None:
            return (7.2, 3.8) if columns == 1 else (4.0 * columns, 2.9)
        return self.width, max(1.6, self.width / columns * (0.6 if columns == 1 else 0.8))


TIMES = ("Times New Roman", "STIXGeneral", FALLBACK)  # the second is Times' twin and comes with matplotlib
LOOKS = {
    "plain": Look(),
    "neurips": Look(5.5, 8.0, TIMES, 1.2),  # the width of the text
    "ieee": Look(3.5, 8.0, TIMES, 1.0),  # the width of a column
}


def choose_look(
    style: str, width: float | None = None, font: str | None = None, font_size: float | None = None
) -> Look:
    """A style with what the user set otherwise.

    Raises:
        ConfigError: a width or size out of range, or a font that this machine does not have.
    """
    look = LOOKS[style]
    for option, value, unit, (low, high) in (("width", width, "inches", WIDTHS), ("font-size", font_size, "pt", SIZES)):
        if value is not None and not low <= value <= high:
            raise ConfigError(f"--{option} {value:g}: {low:g} to {high:g} {unit} are required")
    if font is not None and font not in (names := font_names()):
        near = [name for name in names if font.lower() in name.lower() or name.lower() in font.lower()][:5]
        raise ConfigError(f"--font {font}: matplotlib finds no such font here; it has {', '.join(near or names[:8])}")
    families = look.families if font is None else (font, FALLBACK)
    return replace(look, width=width or look.width, font_size=font_size or look.font_size, families=families)


def font_names() -> Sequence[str]:
    """Families that matplotlib finds on this machine."""
    from matplotlib import font_manager

    return sorted({entry.name for entry in font_manager.fontManager.ttflist})
