"""Imports run one way, read from the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

GROUND = {"recipe", "strategies", "stats", "theory", "errors", "remembered"}
CORE = GROUND | {"adapters", "data", "workloads", "spec", "scheme", "machine"}
FACTS = CORE | {"meters", "records", "compat"}
ALLOWED: dict[str, set[str]] = {
    "strategies": {"strategies"},
    "stats": {"stats"},
    "theory": {"theory"},
    "errors": set(),
    "recipe": set(),
    "remembered": set(),
    "spec": GROUND | {"spec"},
    "scheme": CORE,
    "machine": {"errors"},
    "adapters": CORE,
    "data": CORE,
    "workloads": CORE,
    "matrix": CORE | {"matrix"},
    "compat": set(),
    "meters": FACTS,
    "records": FACTS,
    "harness": FACTS | {"harness"},
    "trackers": FACTS | {"trackers"},
    "training": FACTS | {"harness", "trackers", "training"},
    "integrations": FACTS | {"matrix", "harness", "integrations"},
    "search": FACTS | {"matrix", "harness", "analysis", "doctor", "search"},
    "analysis": {"stats", "theory", "records", "spec", "recipe", "errors", "remembered", "analysis"},
    "doctor": FACTS | {"analysis", "doctor"},
    "reporting": {"stats", "theory", "records", "spec", "recipe", "errors", "analysis", "reporting", "strategies"},
}
FACE = {"cli", "pytest_plugin", "pytest_runs", "__main__", "__init__"}
"""The face may import anything; nothing imports it."""


def room(path: Path) -> str:
    """`scalebench/stats/x.py` -> `stats`, `scalebench/spec.py` -> `spec`."""
    parts = path.relative_to(ROOT / "scalebench").parts
    return parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[str]:
    """The rooms of scalebench that the module at `path` imports, anywhere in it."""
    package = ("scalebench", *path.relative_to(ROOT / "scalebench").parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [".".join((*base, *(node.module or alias.name).split("."))) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "scalebench":
                names = [f"scalebench.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            if head == "scalebench" and rest:
                yield rest.split(".")[0]


MODULES = sorted(path for path in (ROOT / "scalebench").rglob("*.py") if "strategies" not in path.parts)
MODULES += sorted((ROOT / "scalebench" / "strategies").glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    here = room(path)
    if here in FACE:
        return
    assert here in ALLOWED, f"{here} is a new room: say in ALLOWED what it may import"
    wrong = {other for other in imported_rooms(path) if other not in ALLOWED[here] | {here}}
    assert not wrong - {"__version__"}, f"{path.name} imports {wrong}"


def test_strategies_import_torch_and_nothing_else_of_ours() -> None:
    for path in (ROOT / "strategies").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert not (node.module or "").startswith("scalebench"), path
