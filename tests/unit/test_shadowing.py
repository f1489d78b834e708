"""Folders and files of a user's that are named `strategies` never stand in for ours, nor ours for theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import ROOT, printed

CHECK = f"""
import importlib.util
import pathlib

import scalebench.strategies
import strategies

assert strategies.WHOSE == "the user's"
assert "ddp" in scalebench.strategies.BUILTIN
ddp = importlib.util.find_spec("scalebench.strategies.ddp")
assert pathlib.Path(ddp.origin).resolve() == pathlib.Path({str(ROOT)!r}, "strategies", "ddp.py")
"""


@pytest.fixture(params=["folder", "file"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A user's project with its own `strategies`."""
    mine = tmp_path / ("strategies/__init__.py" if request.param == "folder" else "strategies.py")
    mine.parent.mkdir(exist_ok=True)
    mine.write_text('WHOSE = "the user\'s"\n')
    return tmp_path


def test_in_the_current_directory(project: Path) -> None:
    printed("-c", CHECK, cwd=project)
    printed("-m", "scalebench", "list", cwd=project)


def test_beside_a_factory(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (project / "factory.py").write_text(CHECK)
    printed(project / "factory.py", cwd=tmp_path_factory.mktemp("elsewhere"))


@pytest.mark.parametrize("import_mode", ["prepend", "importlib"])
def test_in_a_pytest_rootdir(project: Path, import_mode: str) -> None:
    (project / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    body = CHECK.strip().replace("\n", "\n    ")
    (project / "test_theirs.py").write_text(f"def test_whose():\n    {body}\n")
    options = ("-q", "-p", "no:cacheprovider", f"--import-mode={import_mode}")
    printed("-m", "pytest", *options, "test_theirs.py", cwd=project, PYTEST_ADDOPTS="", PYTEST_PLUGINS="")
