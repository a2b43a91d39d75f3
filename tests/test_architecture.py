"""The layout keeps showing the architecture: import directions and the homes of heavy dependencies."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
ENGINE = sorted((ROOT / "fedpurin").rglob("*.py"))
PACKAGES = [*ENGINE, *(ROOT / "callbacks").rglob("*.py"), *(ROOT / "lightning_modules").rglob("*.py")]

OURS = ("fedpurin", "callbacks", "lightning_modules")

# From the leaves to the roots. A module has the rank of the longest name here that it begins with; modules under one
# may import each other, all others only what ranks below them: by an import anywhere in the file, or by a dotted name.
LAYERS = (
    "run.files",
    "compiled metrics parallel science seeding space run.environment run.interruption run.reader run.tensor_files",
    "data_config",
    "config",
    "exchange hooks own report run.compose run.growing run.lock run.place run.starting run.stored_config run.trust run.world",
    "data selection tracking run.checkpoint run.effects run.launch run.resume",
    "local run.data_digest run.folder",
    "lightning_modules run.export run.listeners run.rehearsal",
    "methods run.module",
    "federation run.first_weights",
    "run.record",
    "callbacks run.checkpointer",
    "run.build",
    "run api",
    "fedpurin study",
    "cli",
    "__main__",
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}
NAMED = re.compile(rf"({'|'.join(OURS)})(\.\w+)+")
TARGET_PACKAGES = {
    "model": "lightning_modules",
    "method": "fedpurin.methods",
    "logger": "callbacks",
    "callbacks": "callbacks",
}
"""Where what a section of the configuration calls has to live."""


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Dotted names of the modules that a file imports; with `top_level`, only outside functions and type checks."""
    tree = parse(path)
    nodes = tree.body if top_level else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package_of(module: str) -> str:
    """The entry of LAYERS that ranks a module; the empty string where none does."""
    parts = module.split(".")
    if parts[0] == "fedpurin" and len(parts) > 1:
        parts = parts[1:]
    elif len(parts) == 1:
        return module if module in RANKS else ""
    return next((name for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in RANKS), "")


def names_in(path: Path) -> set[str]:
    """Dotted names of ours in a file's string constants, which Hydra or importlib turn into objects: no file names."""
    constants = (node.value for node in ast.walk(parse(path)) if isinstance(node, ast.Constant))
    return {text for text in constants if isinstance(text, str) and NAMED.fullmatch(text)} - {"fedpurin.log"}


def named_modules(path: Path, known: set[str]) -> set[str]:
    """The modules that a file's string constants name, or name an object of."""
    return {module for name in names_in(path) for module in (name, name.rpartition(".")[0]) if module in known}


def targets(node: Any, section: str = "") -> Iterator[tuple[str, str]]:
    """Every `_target_` of ours in a configuration, with the section that calls it."""
    if isinstance(node, dict):
        if NAMED.fullmatch(target := str(node.get("_target_"))):
            yield section, target
        for key, value in node.items():
            yield from targets(value, section or key)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value, section)


def exists(name: str) -> bool:
    """Whether a dotted name is a module or an object of one."""
    try:
        return importlib.import_module(name) is not None
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return hasattr(importlib.import_module(module), attribute)


def test_the_engine_imports_neither_callbacks_nor_lightning_modules() -> None:
    for path in ENGINE:
        assert not any(name.split(".")[0] in ("callbacks", "lightning_modules") for name in imports(path)), path


def test_callbacks_and_lightning_modules_do_not_import_each_other() -> None:
    for one, other in (("callbacks", "lightning_modules"), ("lightning_modules", "callbacks")):
        for path in (ROOT / one).rglob("*.py"):
            assert not any(name.split(".")[0] == other for name in imports(path)), path


def test_every_module_has_a_rank() -> None:
    assert {dotted(path) for path in PACKAGES if not package_of(dotted(path))} == set()


def test_every_name_in_the_layers_is_there() -> None:
    assert {package_of(dotted(path)) for path in PACKAGES} == set(RANKS)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("fedpurin", "fedpurin"),
        ("fedpurin.run.reader", "run.reader"),
        ("fedpurin.run.reader_of_others", "run"),
        ("fedpurin.exchange.wire.bits", "exchange"),
        ("callbacks.tracking", "callbacks"),
        ("fedpurin.attic.old", ""),
        ("elsewhere", ""),
    ],
)
def test_the_longest_name_ranks_a_module(module: str, name: str) -> None:
    assert package_of(module) == name


def test_imports_and_names_run_towards_the_leaves() -> None:
    known = {dotted(path) for path in PACKAGES}
    for path in PACKAGES:
        own = package_of(dotted(path))
        for used in modules_imported(path, known) | named_modules(path, known):
            if (name := package_of(used)) != own:
                assert RANKS[name] < RANKS[own], f"{path} uses {used}"


def test_no_import_is_relative() -> None:
    for path in PACKAGES:
        for node in ast.walk(parse(path)):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}:{node.lineno}"


def test_names_in_strings_exist() -> None:
    names = {name: path for path in PACKAGES for name in names_in(path)}
    assert len(names) > 15
    assert [f"{path}: {name}" for name, path in names.items() if not exists(name)] == []
    assert not exists("fedpurin.methods.FedNothing")


def test_targets_in_the_configuration_exist_where_they_belong() -> None:
    found = 0
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        group = path.relative_to(ROOT / "configs").parts[0] if path.parent != ROOT / "configs" else ""
        is_global = "@package _global_" in path.read_text()
        for section, target in targets(yaml.safe_load(path.read_text()), "" if is_global else group):
            assert target.startswith(f"{TARGET_PACKAGES[section]}."), f"{path}: {section} calls {target}"
            assert exists(target), f"{path}: {target}"
            found += 1
    assert found > 40


def test_cvxpy_and_scip_live_in_selection_only() -> None:
    for path in PACKAGES:
        if any(name.split(".")[0] in ("cvxpy", "pyscipopt") for name in imports(path)):
            assert path.is_relative_to(ROOT / "fedpurin" / "selection"), path


def test_torch_distributed_lives_in_exchange_and_the_checkpoint_only() -> None:
    for path in PACKAGES:
        for name in imports(path):
            if name.startswith("torch.distributed"):
                in_exchange = path.is_relative_to(ROOT / "fedpurin" / "exchange")
                assert in_exchange or name.startswith("torch.distributed.checkpoint"), path


def test_optional_packages_are_imported_where_used() -> None:
    report = ROOT / "fedpurin" / "report"  # loaded by its own command only
    for path in PACKAGES:
        for name in imports(path, top_level=True) if not path.is_relative_to(report) else ():
            assert name.split(".")[0] not in ("wandb", "matplotlib", "sklearn", "submitit", "plotly"), path


def test_files_stay_readable() -> None:
    for path in PACKAGES:
        assert len(path.read_text().splitlines()) <= 400, path


def test_the_loop_can_be_read_aloud() -> None:
    tree = ast.parse((ROOT / "fedpurin" / "federation.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in ("run", "run_round"):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 130


def modules_imported(path: Path, known: set[str]) -> set[str]:
    """Our modules that a file imports anywhere: at the top, for type checks, in a function."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inner or {node.module}
    return found & known


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach one another: what is left when leaves and roots are taken away, again and again."""
    left = {name: set(uses) for name, uses in graph.items()}
    while True:
        used = set().union(*left.values()) if left else set()
        gone = {name for name, uses in left.items() if not uses or name not in used}
        if not gone:
            return [sorted(left)] if left else []
        left = {name: uses - gone for name, uses in left.items() if name not in gone}


def test_no_circle_of_imports_anywhere_not_even_in_functions_type_checks_or_names() -> None:
    names = {dotted(path): path for path in PACKAGES}
    known = set(names)
    graph = {name: (modules_imported(p, known) | named_modules(p, known)) - {name} for name, p in names.items()}
    assert len(graph) > 150
    assert circles(graph) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]
