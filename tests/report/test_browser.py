"""The page in a real browser, at the widths of a phone, a tablet and a desk: nothing overlaps, is cut or complains.

Its runs bear names that try to be markup, formulas and scripts, and that are too long for any panel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedpurin.cli.report import main
from tests.report.browser import Browser, find_browser
from tests.report.synthetic import Spec, write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium on the path (Debian: apt-get install chromium)"),
]
WIDTHS = (400, 800, 1400)
HOSTILE = "<script>document.title='taken'</script>"
IMAGE = "\"'><img src=x onerror=\"document.title='taken'\">"
LONG = "a class whose name is longer than any figure has place for, and then some more"
DRAWN = "document.documentElement?.dataset.drawn"

TEXTS = """(() => {
  const seen = (node) => node.checkVisibility() && node.getBoundingClientRect().width > 0 && node.textContent.trim();
  const box = (node) => {
    const r = node.getBoundingClientRect();
    return { text: node.textContent, left: r.left, right: r.right, top: r.top + scrollY, bottom: r.bottom + scrollY };
  };
  const plots = [...document.querySelectorAll(".plot")].map((plot) => {
    const frame = box(plot);
    const texts = [...plot.querySelectorAll(".main-svg text")].filter(seen).filter((t) => !t.closest(".textpoint"));
    return { figure: plot.closest("figure").id, frame, texts: texts.map(box) };
  });
  const html = [...document.querySelectorAll("h1, h2, h3, h4, figcaption, .facts, .about, .remark, nav a"),
    ...document.querySelectorAll("th, td, .legend button, .setting > div")];
  return { plots, html: html.filter(seen).map(box) };
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    specs = [Spec(method, seed, clients=8, classes=10) for method in ("local", "fedavg", "fedper") for seed in (1, 2)]
    specs += [
        Spec("fedpurin_recommended", seed, clients=8, classes=10, options={"program.tau": tau, "choices.method": name})
        for tau in (0.1, 0.3, 0.5)
        for seed in (1, 2)
        for name in ("fedpurin_recommended", HOSTILE + "fedpurin", f"fedpurin{IMAGE}_with_a_very_long_name")
    ]
    for index, spec in enumerate(specs):
        run = write_run(root / f"{index}<script>", spec)
        partition = json.loads((run / "partition.json").read_text())
        partition["class_names"] = [HOSTILE, IMAGE, "=1+1", LONG, *partition["class_names"][4:]]
        (run / "partition.json").write_text(json.dumps(partition))
    (root / "99" / ".hydra").mkdir(parents=True)
    assert main([str(root), "--out", str(root / "out")]) == 0
    return root / "out" / "report.html"


@pytest.fixture(scope="module", params=WIDTHS)
def browser(request: pytest.FixtureRequest, page: Path) -> Iterator[Browser]:
    with Browser(request.param) as browser:
        browser.open(page, DRAWN)
        yield browser


def overlaps(texts: list[dict[str, object]]) -> list[tuple[object, object]]:
    """Pairs of boxes that share more than a pixel in both directions."""
    found = []
    for index, one in enumerate(texts):
        for other in texts[index + 1 :]:
            across = min(one["right"], other["right"]) - max(one["left"], other["left"])  # type: ignore[type-var, operator]
            down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])  # type: ignore[type-var, operator]
            if across > 1 and down > 1:
                found.append((one["text"], other["text"]))
    return found


def test_no_texts_overlap_and_none_is_cut(browser: Browser) -> None:
    shown = browser.evaluate(TEXTS)
    assert sum(len(plot["texts"]) for plot in shown["plots"]) > 100
    for plot in shown["plots"]:
        assert overlaps(plot["texts"]) == [], plot["figure"]
        for text in plot["texts"]:
            assert text["left"] >= plot["frame"]["left"] - 1, (plot["figure"], text)
            assert text["right"] <= plot["frame"]["right"] + 1, (plot["figure"], text)
            assert text["bottom"] <= plot["frame"]["bottom"] + 1, (plot["figure"], text)
    for link in browser.evaluate("[...document.querySelectorAll('nav a')].map((a) => a.getBoundingClientRect().right)"):
        assert link <= browser.width
    in_flow = [text for text in shown["html"] if text["right"] > 0]
    assert len(in_flow) > 100
    assert overlaps(in_flow) == []


def test_the_page_does_not_scroll_sideways_and_a_table_that_does_says_so(browser: Browser) -> None:
    assert browser.evaluate("document.documentElement.scrollWidth") == browser.width
    state = browser.evaluate(
        "[...document.querySelectorAll('section:not(#runs) .wide')].map((wide) => { const s = wide.firstChild;"
        " return [s.scrollWidth > s.clientWidth + 1, wide.querySelector('.cue').checkVisibility()] })"
    )
    assert len(state) == 2
    assert all(scrolls == cue for scrolls, cue in state)
    if browser.width == 1400:
        assert not any(scrolls for scrolls, _ in state)
    if browser.width == 400:
        assert state[0] == [True, True]


def test_hovering_shows_values_and_runs_no_script(browser: Browser) -> None:
    for key, expected in (("accuracy_by_round", "Round"), ("partition", "training samples"), ("gains", "pp")):
        plot = f"document.getElementById('{key}').querySelector('.plot')"
        browser.evaluate(f"{plot}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        browser.evaluate("new Promise((resume) => setTimeout(resume, 100))")
        places = browser.evaluate(
            f"""[...document.getElementById('{key}').querySelectorAll('.plot .point, .plot .js-line')].slice(0, 6)
            .map((mark) => {{ const r = mark.getBoundingClientRect(); return mark.matches('.point')
            ? [r.left + r.width / 2, r.top + r.height / 2] : [r.right - 2, r.top + 2] }})"""
        )
        texts = []
        for x, y in places:
            browser.move(x, y)
            browser.evaluate("new Promise((resume) => setTimeout(resume, 120))")
            texts.append(
                browser.evaluate("[...document.querySelectorAll('.hoverlayer')].map(h => h.textContent).join()")
            )
        assert any(expected in text for text in texts), (key, places, texts)
    assert "taken" not in browser.evaluate("document.title")
    assert browser.evaluate("document.querySelectorAll('main img:not(.still), main script').length") == 0


CONTRASTS = """(() => {
  const channels = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => { const [x, y, z] = [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)); return 0.2126 * x + 0.7152 * y + 0.0722 * z; };
  const over = (top, under, share) => top.map((c, at) => share * c + (1 - share) * under[at]);
  const paper = channels(getComputedStyle(document.documentElement).backgroundColor).slice(0, 3);
  function behind(node) {
    for (let at = node; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour.slice(0, 3);
    }
    return paper;
  }
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  const found = [];
  for (let text; (text = walker.nextNode());) {
    const node = text.parentElement;
    if (!text.textContent.trim() || !node.checkVisibility() || node.closest(".textpoint, script, style")) continue;
    const look = getComputedStyle(node);
    const colour = channels(node.closest("svg") ? look.fill : look.color);
    let share = colour[3] ?? 1;
    for (let at = node; at; at = at.parentElement) share *= Number(getComputedStyle(at).opacity);
    const under = behind(node);
    const [low, high] = [light(over(colour.slice(0, 3), under, share)), light(under)].sort((a, b) => a - b);
    found.push([text.textContent.slice(0, 30), (high + 0.05) / (low + 0.05)]);
  }
  return found;
})()"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(page: Path, theme: str) -> None:
    with Browser(1400) as browser:
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        browser.open(page, DRAWN)
        browser.evaluate("document.querySelector('#pareto .legend button').click()")  # a series that is hidden
        texts = browser.evaluate(CONTRASTS)
        assert len(texts) > 300
        assert [text for text in texts if not text[1] >= 4.5] == []


def test_the_browser_has_nothing_to_complain_about(browser: Browser) -> None:
    assert browser.errors == []


def test_print_shows_the_runs_and_the_still_pictures(page: Path) -> None:
    with Browser(800) as browser:
        browser.open(page, DRAWN)
        browser.call("Emulation.setEmulatedMedia", media="print")
        state = browser.evaluate(
            "['#runs td', '#pareto .still', '#pareto .live', 'nav'].map((s) => document.querySelector(s)"
            ".getBoundingClientRect().height > 0)"
        )
        assert state == [True, True, False, False]
        browser.resize(688, 1000)  # A4 between its margins
        for scrolls, across, high in browser.evaluate(
            "[...document.querySelectorAll('.scroll')].map((s) => [s.scrollWidth > s.clientWidth, s.clientWidth,"
            " Math.max(...[...s.querySelectorAll('tbody tr')].map((row) => row.getBoundingClientRect().height))])"
        ):
            assert (scrolls, across) == (False, 688)
            assert high < 160
