"""Draws docs/images/architecture.svg and docs/images/round.svg. `python docs/figures.py`; plain SVG, no packages.

Owns the two drawings of docs/design.md. Does not own plots of measurements (benchmarks/, fedpurin/report/).
"""

from __future__ import annotations

from html import escape
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
FONT = "font-family='Helvetica, Arial, sans-serif'"
BLUE, GREEN, AMBER, GREY = "#dbe9f6", "#dff0dd", "#fbecd0", "#eeeeee"


class Drawing:
    """Boxes, arrows and lines of text on a white page, written in the order in which they are added."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 {width} {height}' "
            f"role='img' aria-label='{escape(title)}'>",
            f"<title>{escape(title)}</title>",
            "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='8' markerHeight='8' "
            "orient='auto'><path d='M0 0 L8 4 L0 8 z' fill='#555'/></marker></defs>",
            f"<rect width='{width}' height='{height}' fill='white'/>",
        ]

    def box(self, x: int, y: int, width: int, height: int, fill: str, name: str, *notes: str) -> None:
        """A box with a bold name and one line for each note, centred."""
        self.parts.append(
            f"<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='6' fill='{fill}' stroke='#777'/>"
        )
        top = y + height / 2 - 8 * len(notes) + 5
        self.text(x + width / 2, top, name, size=14, weight="bold")
        for number, note in enumerate(notes, start=1):
            self.text(x + width / 2, top + 17 * number, note, size=12)

    def text(
        self, x: float, y: float, text: str, *, size: int = 12, weight: str = "normal", anchor: str = "middle"
    ) -> None:
        self.parts.append(
            f"<text x='{x:g}' y='{y:g}' {FONT} font-size='{size}' font-weight='{weight}' "
            f"text-anchor='{anchor}' fill='#222'>{escape(text)}</text>"
        )

    def arrow(self, *points: tuple[int, int], dashed: bool = False) -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        dash = " stroke-dasharray='5 4'" if dashed else ""
        self.parts.append(
            f"<polyline points='{path}' fill='none' stroke='#555' stroke-width='1.4' marker-end='url(#tip)'{dash}/>"
        )

    def save(self, path: Path) -> None:
        path.write_text("\n".join([*self.parts, "</svg>", ""]))


def architecture() -> Drawing:
    """Layers of packages; every import points down."""
    page = Drawing(860, 530, "Packages of fedpurin and the direction of imports")
    page.box(20, 20, 400, 52, BLUE, "__main__.py, cli/", "the command, and the other commands")
    page.box(440, 20, 180, 52, BLUE, "api.py", "fedpurin.simulate")
    page.box(20, 104, 200, 52, GREY, "report/", "figures and the page")
    page.box(240, 104, 180, 52, GREY, "tracking/", "Weights & Biases")
    page.box(440, 104, 180, 52, BLUE, "run/", "build, folder, checkpoints")
    page.box(440, 188, 180, 52, GREEN, "federation.py", "the round loop")
    page.box(240, 272, 180, 52, GREEN, "methods/", "one file a method")
    page.box(440, 272, 180, 52, GREEN, "local/", "clients, fits as data")
    page.box(20, 356, 180, 52, GREEN, "exchange/", "messages, sums, ledger")
    page.box(230, 356, 180, 52, GREEN, "selection/", "scores, program, mask")
    page.box(440, 356, 180, 52, GREEN, "data/", "sources, partitions")
    page.box(20, 440, 600, 52, GREY, "config.py, seeding.py, space.py", "options, random streams, the flat vector")
    page.arrow((120, 72), (120, 104))
    page.arrow((330, 72), (330, 104))
    page.arrow((400, 72), (470, 104))
    page.arrow((530, 72), (530, 104))
    page.arrow((240, 130), (220, 130))
    page.arrow((530, 156), (530, 188))
    page.arrow((470, 240), (370, 272))
    page.arrow((530, 240), (530, 272))
    page.arrow((420, 298), (440, 298))
    page.arrow((280, 324), (150, 356))
    page.arrow((530, 324), (530, 356))
    for x in (110, 320, 530):
        page.arrow((x, 408), (x, 440))
    page.box(660, 20, 180, 136, AMBER, "configs/", "Hydra groups;", "_target_ names classes", "outside the engine")
    page.box(660, 188, 180, 84, AMBER, "callbacks/", "mask selection, statistics,", "progress, tracking")
    page.box(660, 304, 180, 84, AMBER, "lightning_modules/", "clients' modules, losses,", "backbones")
    page.arrow((660, 130), (620, 130), dashed=True)
    page.arrow((660, 214), (620, 214))
    page.arrow((660, 256), (648, 256), (648, 424), (380, 424), (380, 408))
    page.arrow((660, 320), (636, 320), (636, 298), (620, 298))
    page.text(
        20,
        516,
        "Solid: the main imports, towards the leaves. Dashed: composed by name, never imported by the engine.",
        anchor="start",
    )
    return page


def one_round() -> Drawing:
    """The eight steps, clients on the left, server on the right."""
    page = Drawing(860, 660, "One round of FedPURIN")
    page.text(210, 26, "client i", size=16, weight="bold")
    page.text(650, 26, "server (spread over the ranks)", size=16, weight="bold")
    page.box(30, 44, 360, 52, GREEN, "1  local training", "local/trainer.py: fit what methods/ planned")
    page.box(30, 124, 360, 52, GREEN, "2  perturbation scores", "selection/scores.py: c = |−g w + ½ (g w)²|")
    page.box(30, 204, 360, 52, GREEN, "3  program, mask, certificate", "selection/: reduce, solve with SCIP, lift")
    page.box(30, 284, 360, 52, BLUE, "4  mask up", "exchange/masks.py")
    page.box(470, 284, 360, 52, AMBER, "5  overlap, threshold, collaborators", "methods/overlap.py: from masks alone")
    page.box(470, 364, 360, 52, BLUE, "request down (on_demand)", "own critical values that others will use")
    page.box(30, 364, 360, 52, BLUE, "4  values up", "exchange/sparse.py")
    page.box(
        470, 444, 360, 52, AMBER, "6  sums over the other collaborators", "exchange/sums.py: ascending id, float32"
    )
    page.box(30, 444, 360, 52, GREEN, "7  add own value, divide, merge", "where the mask is 1")
    page.box(30, 524, 360, 52, GREEN, "8  evaluation", "personalized, sparse, merged")
    page.box(
        30, 600, 800, 44, GREY, "ledger, record, checkpoint", "exchange/ledger.py, run/record.py, run/checkpointer.py"
    )
    for top in (96, 176, 256, 496):
        page.arrow((210, top), (210, top + 28))
    page.arrow((210, 576), (210, 600))
    page.arrow((390, 310), (470, 310))
    page.arrow((650, 336), (650, 364))
    page.arrow((470, 382), (390, 382))
    page.arrow((390, 402), (430, 402), (430, 460), (470, 460))
    page.arrow((470, 480), (390, 480))
    page.text(650, 120, "blue: encoded messages, whose bytes are counted", size=13)
    page.text(650, 142, "green: on the client    amber: on the server", size=13)
    page.text(650, 186, "exchange=direct sends values with the mask", size=13)
    page.text(650, 206, "and has no request", size=13)
    return page


def main() -> None:
    architecture().save(IMAGES / "architecture.svg")
    one_round().save(IMAGES / "round.svg")


if __name__ == "__main__":
    main()
