"""The layout keeps showing the architecture: import directions and the homes of heavy dependencies."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENGINE = sorted((ROOT / "fedpurin").rglob("*.py"))
PACKAGES = [*ENGINE, *(ROOT / "callbacks").rglob("*.py"), *(ROOT / "lightning_modules").rglob("*.py")]

# Towards the leaves: a file may import from its own rank and below.
RANKS = {
    "compiled": 0,
    "science": 0, "config": 0, "own": 0, "seeding": 0, "space": 0, "hooks": 0, "metrics": 0, "data": 1, "selection": 1,
    "exchange": 1, "local": 2, "methods": 3, "federation": 4, "tracking": 5, "report": 5, "run": 6, "api": 7, "study": 7,
    "cli": 8, "__main__": 9,
}  # fmt: skip


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Dotted names of the modules that a file imports; with `top_level`, only outside functions and type checks."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def home(path: Path) -> str:
    return path.relative_to(ROOT / "fedpurin").parts[0].removesuffix(".py")


def test_the_engine_imports_neither_callbacks_nor_lightning_modules() -> None:
    for path in ENGINE:
        assert not any(name.split(".")[0] in ("callbacks", "lightning_modules") for name in imports(path)), path


def test_callbacks_and_lightning_modules_do_not_import_each_other() -> None:
    for one, other in (("callbacks", "lightning_modules"), ("lightning_modules", "callbacks")):
        for path in (ROOT / one).rglob("*.py"):
            assert not any(name.split(".")[0] == other for name in imports(path)), path


def test_imports_run_towards_the_leaves() -> None:
    for path in ENGINE:
        rank = RANKS.get(home(path))
        if rank is None:
            continue
        for name in imports(path, top_level=True):
            parts = name.split(".")
            if parts[0] == "fedpurin" and len(parts) > 1 and parts[1] in RANKS and parts[1] != home(path):
                # The format's constants are a leaf of their own.
                if parts[:4] == ["fedpurin", "exchange", "wire", "costs"]:
                    continue
                assert RANKS[parts[1]] <= rank, f"{path} imports {name}"


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
    for node in ast.walk(ast.parse(path.read_text())):
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


def test_no_circle_of_imports_anywhere_not_even_in_functions_or_type_checks() -> None:
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in PACKAGES}
    graph = {name: modules_imported(path, set(names)) - {name} for name, path in names.items()}
    assert len(graph) > 150
    assert circles(graph) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


def test_every_module_of_the_engine_has_a_rank() -> None:
    assert {home(path) for path in ENGINE} - {"__init__"} == set(RANKS)
