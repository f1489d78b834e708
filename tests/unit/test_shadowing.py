"""Folders and files of a user's that are named `strategies` never stand in for ours, nor ours for theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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


def run(arguments: list[str], folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_in_the_current_directory(project: Path) -> None:
    run(["-c", CHECK], project)
    run(["-m", "scalebench", "list"], project)


def test_beside_a_factory(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (project / "factory.py").write_text(CHECK)
    run([str(project / "factory.py")], tmp_path_factory.mktemp("elsewhere"))


@pytest.mark.parametrize("import_mode", ["prepend", "importlib"])
def test_in_a_pytest_rootdir(project: Path, import_mode: str) -> None:
    (project / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    body = CHECK.strip().replace("\n", "\n    ")
    (project / "test_theirs.py").write_text(f"def test_whose():\n    {body}\n")
    run(["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--import-mode={import_mode}", "test_theirs.py"], project)
