"""Takes the pictures of docs/report.md: a report's page on a desk, on a phone, and under the mouse, in a real Chromium.

    fedpurin -m method=local,fedavg,fedpurin,fedpurin_recommended seed=1,2 trainer.rounds=15 horizon=8 \
        hydra.sweep.dir=multirun/pictures
    python -m docs.report_pictures multirun/pictures

Owns which part of the page is shown. Does not own the page (fedpurin/report/) nor the browser (tests/report/browser.py).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fedpurin.cli.report import main as write_report
from tests.report.browser import Browser

IMAGES = Path(__file__).parent / "images"
DRAWN = "document.documentElement?.dataset.drawn"
PAUSE = "new Promise((resume) => setTimeout(resume, 500))"


def main(runs: str) -> None:
    """Write the page for `runs` into a temporary folder and take its pictures."""
    with tempfile.TemporaryDirectory() as folder:
        write_report([runs, "--out", folder])
        page = Path(folder) / "report.html"
        for name, width, height in (("desk", 1400, 1050), ("phone", 400, 900)):
            with Browser(width, height) as browser:
                browser.open(page, DRAWN)
                browser.evaluate(PAUSE)
                browser.picture(IMAGES / f"report_{name}.png", whole=False)
        with Browser(1000, 520) as browser:
            browser.open(page, DRAWN)
            browser.evaluate("document.getElementById('accuracy_by_bytes').scrollIntoView({behavior: 'instant'})")
            browser.evaluate(PAUSE)
            x, y = browser.evaluate(
                "(() => { const r = document.querySelector('#accuracy_by_bytes .trace:last-child .js-line')"
                ".getBoundingClientRect(); return [r.right - 2, r.top + 3] })()"
            )
            browser.move(x - 1, y)
            browser.move(x, y)
            browser.evaluate(PAUSE)
            browser.picture(IMAGES / "report_hover.png", whole=False)


if __name__ == "__main__":
    main(sys.argv[1])
