"""What docs and docstrings name is there: files, tests, links, and command lines that compose."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedpurin import methods
from fedpurin.cli.help import COMMANDS, help_text
from fedpurin.run.compose import compose_config
from tests.report.browser import Browser, find_browser

ROOT = Path(__file__).parent.parent
SOURCES = ("fedpurin", "callbacks", "lightning_modules", "configs", "benchmarks", "slurm", "tests", "docs", ".ci")
PAGES = [ROOT / "README.md", *(ROOT / name for name in ("CONTRIBUTING.md",)), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if page.exists()]
MODULES = sorted(path for name in SOURCES for path in (ROOT / name).rglob("*.py"))
FILES = {
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.iterdir(), *(path for name in SOURCES for path in (ROOT / name).rglob("*"))]
    if path.is_file()
}

# Not files of the repository: what runs write, what a guide has its reader write, what other programs read.
ELSEWHERE = {
    "config.yaml", "multirun.yaml", "overrides.yaml", "hydra.yaml", "sweep.yaml", "partition.yaml", "run.py", "train.py",
    "my_module.py", "module.py", "my_code.py", "my_data.py", "my_deal.py", "my_program.py", "moons.yaml", "conda.sh",
}  # fmt: skip
GUIDE_EXAMPLES = ("lg_fedavg", "--config-dir")
NAME = re.compile(r"(?<![\w*./{<-])([\w./-]*\w\.(?:py|md|sbatch|sh|yaml|toml))(?![\w(*/{-]|\.\w)")
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}(?:_[A-Z]+)*\b|\.\.\.|…|<|\$")


def files_named(text: str) -> Iterator[str]:
    """Every file of ours that a text names; web addresses, placeholders and files that runs write are not."""
    text = re.sub(r"\w+://\S+", "", text)
    for name in NAME.findall(text):
        stem = name.rsplit("/", 1)[-1]
        is_placeholder = re.search(r"(?:\b|_)[A-Z]{3,}\b", name) and stem not in FILES
        if stem not in ELSEWHERE and not is_placeholder and not any(example in name for example in GUIDE_EXAMPLES):
            yield name


def exists(name: str, near: Path) -> bool:
    """Whether a name, whole, relative, or the end of a path, is one of the repository's files."""
    if (near.parent / name).resolve().exists():
        return True
    name = re.sub(r"^(\.{1,2}/)+", "", name)
    return any(file == name or file.endswith("/" + name) for file in FILES)


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every `fedpurin …` line in a page, without its comment."""
    text = text.replace("\\\n", " ")
    lines = re.findall(r"^(?:    |\$ )?fedpurin (.*)$", text, flags=re.M) + re.findall(r"`fedpurin ([^`\n]+)`", text)
    for line in lines:
        yield shlex.split(line, comments=True)


def one_run_each(arguments: list[str]) -> Iterator[list[str]]:
    """A sweep's options, each choice once; a plain command as it is."""
    arguments = [argument for argument in arguments if not argument.startswith("-")]
    choices = [re.split(r",(?![^\[({]*[\])}])", argument) for argument in arguments]
    most = max(map(len, choices), default=1)
    for number in range(most):
        run = []
        for values in choices:
            name = values[0].partition("=")[0]
            value = values[min(number, len(values) - 1)]
            run.append(value if "=" in value else f"{name}={value}")
        yield run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    missing = [name for name in files_named(page.read_text()) if not exists(name, page)]
    assert missing == []


def test_files_that_docstrings_and_the_help_name_exist() -> None:
    texts = [(path, text) for path in MODULES for text in docstrings(path)] + [(ROOT / "README.md", help_text())]
    missing = [(path.name, name) for path, text in texts for name in files_named(text) if not exists(name, path)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_shows_compose(page: Path) -> None:
    for arguments in commands(page.read_text()):
        line = " ".join(arguments)
        if not arguments or arguments[0] in ("--help", "--version", "--cfg") or any(x in line for x in GUIDE_EXAMPLES):
            continue
        if re.fullmatch(r"[a-z]+", arguments[0]):
            assert arguments[0] in COMMANDS, line
            continue
        if not PLACEHOLDER.search(line):
            for run in one_run_each(arguments):
                compose_config(run)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    functions = {
        node.name
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    named = re.findall(r"`(?:[\w./]+::)?(test_(?!per_client)\w+)`", page.read_text())
    assert [name for name in named if name not in functions] == []


def test_stations_of_the_walk_exist() -> None:
    """`file`: `function` pairs of docs/design.md."""
    pairs = re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", (ROOT / "docs" / "design.md").read_text())
    assert len(pairs) >= 15
    for file, functions in pairs:
        nodes = ast.walk(ast.parse((ROOT / file).read_text()))
        defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        assert set(re.findall(r"`(\w+)`", functions)) <= defined, (file, functions)


def test_the_reference_lists_every_method() -> None:
    listed = re.findall(r"^        - (\w+)$", (ROOT / "docs" / "api" / "methods.md").read_text(), flags=re.M)
    assert sorted(listed) == sorted(set(methods.__all__) - {"Method", "Round"})


def test_a_method_s_page_says_once_what_it_was_checked_against() -> None:
    _, checked = (ROOT / "docs" / "methods.md").read_text().split("## What was checked against what")
    named = re.findall(r"^\| `([\w=]+)` \|", checked, flags=re.M)
    assert len(named) == len(set(named)) > 25


def test_the_checks_can_fail() -> None:
    assert list(files_named("see `nowhere.py`, https://a.org/x.py and DIR/NAME.yaml")) == ["nowhere.py"]
    assert not exists("nowhere.py", ROOT / "README.md")
    assert exists("wire/message.py", ROOT / "README.md")
    assert not exists("exchange/message.py", ROOT / "README.md")
    assert list(commands("    fedpurin -m seed=1,2 \\\n  horizon=3   # text\n")) == [["-m", "seed=1,2", "horizon=3"]]
    assert list(one_run_each(["-m", "seed=1,2", "logger=[csv,wandb]"])) == [
        ["seed=1", "logger=[csv,wandb]"],
        ["seed=2", "logger=[csv,wandb]"],
    ]


def test_figures_are_what_their_script_draws(tmp_path: Path) -> None:
    space: dict[str, object] = {"__name__": "figures", "__file__": str(ROOT / "docs" / "figures.py")}
    exec((ROOT / "docs" / "figures.py").read_text(), space)
    space["IMAGES"] = tmp_path
    space["main"]()  # type: ignore[operator]
    for name in ("architecture.svg", "round.svg"):
        assert (tmp_path / name).read_text() == (ROOT / "docs" / "images" / name).read_text()


def build_site(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        str(config),
        "--site-dir",
        str(site),
    ]
    return subprocess.run(command, text=True, capture_output=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})


@pytest.mark.slow
def test_the_site_builds_and_a_broken_link_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the dev extra brings mkdocs-material")
    built = build_site(ROOT / "mkdocs.yml", tmp_path / "site")
    assert built.returncode == 0, built.stderr
    pages = {path: path.read_text() for path in (tmp_path / "site").rglob("*.html")}
    tutorial = pages[tmp_path / "site" / "tutorial.html"]
    assert "Two runs" in tutorial
    assert "kB up and down" in tutorial, "what its cells print"
    assert "data:image/png;base64," in tutorial, "what they draw"
    assert "Raise ConfigError where the model" in pages[tmp_path / "site" / "api" / "methods.html"]
    loaded = [
        url
        for page in pages.values()
        for url in re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"(http[^\"]*)", page)
    ]
    assert loaded == [], "the site is read without a network"

    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    page = tmp_path / "docs" / "clusters.md"
    page.write_text(page.read_text() + "\n[gone](no-such-page.md)\n")
    broken = build_site(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert broken.returncode == 1
    assert "no-such-page.md" in broken.stderr


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
def test_search_finds_names_in_pages_opened_from_the_disk_and_no_page_is_wider_than_a_phone(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the dev extra brings mkdocs-material")
    assert build_site(ROOT / "mkdocs.yml", tmp_path).returncode == 0
    with Browser(400) as browser:
        for page in sorted(tmp_path.rglob("*.html")):
            if page.name != "404.html":  # its addresses start at a server's root
                browser.open(page)
                assert browser.evaluate("document.documentElement.scrollWidth") == 400, page.name
    with Browser(1400) as browser:
        browser.open(tmp_path / "api" / "methods.html")
        browser.evaluate("document.querySelector('.md-search__input').focus()")
        browser.call("Input.insertText", text="LocalFit")
        browser.wait("document.querySelectorAll('.md-search-result__item').length > 1")
        assert "LocalFit" in browser.evaluate("document.querySelector('.md-search-result__list').textContent")
        assert browser.errors == []


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    table = "".join(output.get("text", "") for output in outputs)
    accuracies = re.findall(r"(fedavg|fedpurin_recommended) +accuracy (0\.\d+) +([\d.]+) kB", table)
    assert [name for name, _, _ in accuracies] == ["fedavg", "fedpurin_recommended"]
    assert all(float(accuracy) > 0.7 for _, accuracy, _ in accuracies)
    assert float(accuracies[1][2]) < 0.5 * float(accuracies[0][2])
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_every_promise_of_reliability_names_a_test_that_is_there() -> None:
    lines = (ROOT / "docs" / "reliability.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith(("| fault", "| what", "| ---"))]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, function in named:
            tree = ast.parse((ROOT / "tests" / file).read_text())
            names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert function in names, f"{file}::{function}"
