"""Whatever is typed, configured or found in a results folder: a sentence and an exit code, never a traceback or a hang.

A few hundred examples in CI; ten thousand of each by `pytest -m slow tests/unit/test_bad_input.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalebench
from scalebench.cli import main
from scalebench.errors import UserError
from scalebench.harness import resume
from scalebench.records.record import Record
from scalebench.records.store import load_records
from scalebench.reporting import report as report_module
from scalebench.spec import PlannedRun
from tests.unit.bad_input import command_lines, damaged_records, one_mistake, toml_files

MANY = 10_000
FEW_OR_MANY = [
    pytest.param(int(os.environ.get("BAD_INPUTS", "150")), id="few"),
    pytest.param(MANY, id="10000", marks=[pytest.mark.slow, pytest.mark.timeout(4 * 3600)]),
]
REAL = json.loads((Path(__file__).parents[1] / "data" / "record.json").read_text())
"""A record as a run of ddp on 2 CPU ranks left it, with everything that is looked at afterwards."""


def try_all(examples: st.SearchStrategy[Any], count: int, check: Callable[[Any], None]) -> None:
    """`check` on so many examples, few the same each time; the first that fails is made small and shown."""
    bounded = settings(max_examples=count, derandomize=count < MANY)
    bounded(given(examples)(check))()


def call(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of the command, in this process."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = main.exit_code(list(arguments))
    return code, said.getvalue()


def require_words(code: int, said: str, allowed: tuple[int, ...] = (0, 2)) -> None:
    """A good end, or an error that is told in a sentence."""
    assert code in allowed, said
    assert "Traceback" not in said
    assert "this is a bug" not in said
    if code == 2:
        last = [line for line in said.splitlines() if line.strip()][-1]
        assert last.startswith(("scalebench: error: ", "  -h, --help")), said


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a good record in `results`, no plots (which take a second), no launcher's variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report_module, "write_plots", lambda experiment, folder: [])
    monkeypatch.setattr(resume, "collect", lambda: REAL["environment"])
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    good = Record.model_validate(REAL)
    path = tmp_path / "results" / good.session / good.file_name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(REAL))
    return tmp_path


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that are right after all stop where ranks would start, trackers begin or pictures be drawn."""

    def stop(*_: object, **__: object) -> NoReturn:
        raise UserError("right, and stopped here")

    for place in (
        "scalebench.cli.train.tracking",
        "scalebench.harness.probing.probe",
        "scalebench.cli.doctor.diagnose",
        "scalebench.data.synth.synthesise",
        "scalebench.data.encode.encode",
    ):
        monkeypatch.setattr(place, stop)


@pytest.mark.parametrize("count", FEW_OR_MANY)
def test_command_lines(folder: Path, idle: None, count: int) -> None:
    try_all(command_lines(), count, lambda arguments: require_words(*call(*arguments)))


@pytest.mark.parametrize("count", FEW_OR_MANY)
def test_configuration_files(folder: Path, count: int) -> None:
    file = folder / "matrix.toml"

    def check(content: bytes) -> None:
        file.write_bytes(content)
        require_words(*call("run", "--dry-run", "--config", "matrix.toml"))

    try_all(toml_files(), count, check)


@pytest.mark.parametrize("count", FEW_OR_MANY)
def test_the_mistake_in_a_file_is_told_by_its_line_and_key(folder: Path, count: int) -> None:
    file = folder / "matrix.toml"

    def check(example: tuple[str, str, int]) -> None:
        text, key, line = example
        file.write_text(text)
        code, said = call("run", "--dry-run", "--config", "matrix.toml")
        assert code == 2
        assert f"matrix.toml, line {line}" in said, text
        assert key in said

    try_all(one_mistake(), count, check)


@pytest.mark.parametrize("count", FEW_OR_MANY)
def test_records(folder: Path, count: int) -> None:
    good = Record.model_validate(REAL)
    bad = folder / "results" / good.session / "bad" / good.file_name
    bad.parent.mkdir()

    def check(content: bytes) -> None:
        bad.write_bytes(content)
        assert good in load_records(folder / "results").records, "a bad neighbour takes nothing along"
        require_words(*call("report"))
        require_words(*call("explain"), allowed=(0, 2, 3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(scalebench.load(folder / "results")) in (1, 2)
        resume.standing([PlannedRun(spec=good.spec)], folder / "results")

    try_all(damaged_records(REAL), count, check)
