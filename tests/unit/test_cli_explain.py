"""`scalebench explain` finds a cell by what people call it, and lists what there is when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalebench.cli.main import exit_code
from scalebench.errors import EXIT_OK, EXIT_USAGE
from scalebench.records.record import Record
from scalebench.records.store import write_record
from tests.unit.factory import make_record, make_repeats, make_spec
from tests.unit.test_bottleneck import run_of, waits


@pytest.fixture
def results(tmp_path: Path) -> Path:
    late = run_of(waits(40.0)).model_copy(update={"session": "s1"})
    records: list[Record] = [late]
    records += make_repeats(make_spec(strategy="fsdp", world_size=2, precision="bf16"), [0.01, 0.03, 0.02])
    records += [make_record(make_spec(strategy="fsdp", world_size=4), status="oom", reason="killed")]
    for record in records:
        write_record(record, tmp_path / record.session)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], results: Path, *words: str, code: int = EXIT_OK) -> str:
    assert exit_code(["explain", *words, "--results", str(results)]) == code
    out, err = capsys.readouterr()
    return out if code == EXIT_OK else err


@pytest.mark.parametrize(
    "words", [["ddp"], ["DDP", "1"], ["ddp", "on", "1", "process,", "fp32"], ["gpt-tiny-ddp-1xcpu-fp32"]]
)
def test_one_cell_is_explained_with_evidence(
    capsys: pytest.CaptureFixture[str], results: Path, words: list[str]
) -> None:
    first, second, third, *_ = told(capsys, results, *words).splitlines()
    assert first == (
        "ddp on 1 process, fp32: of a step of 100.0 ms, 40.0% waits for data. "
        "To try: --num-workers 2 (--loader-rates tells how many are enough)"
    )
    assert second.split() == ["40.0%", "data:", "the", "next", "batch", "takes", "40", "ms", "to", "come"]
    assert "to try: --num-workers 2" in third


def test_several_cells_get_a_line_each(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    lines = told(capsys, results).splitlines()
    cells = [line.strip() for line in lines if line.startswith("  ")]
    assert [line.partition(":")[0] for line in cells] == [
        "ddp on 1 process, fp32", "fsdp on 2 processes, bf16", "fsdp on 4 processes, fp32",
    ]  # fmt: skip
    assert cells[2].endswith("n/a (oom)")
    assert [line for line in lines if line not in told(capsys, results, "fsdp")] == [lines[0], lines[1]]


def test_of_several_processes_the_median_one_is_explained(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    lines = told(capsys, results, "fsdp", "2").splitlines()
    assert "of a step of 20.00 ms" in lines[0]
    assert lines[-1].strip() == "Seen in repeat 2 of s1, of median speed among 3."


def test_a_file_is_a_cell(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    (file,) = (results / "s1").glob("*-ddp-*.json")
    assert "40.0% waits for data" in told(capsys, results, str(file))


def test_an_unknown_cell_lists_what_there_is(capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path) -> None:
    error = told(capsys, results, "fsdp", "8", code=EXIT_USAGE)
    assert "no cell is 'fsdp 8'" in error
    assert "ddp on 1 process, fp32; fsdp on 2 processes, bf16; fsdp on 4 processes, fp32" in error
    assert "scalebench explain ddp 1 fp32" in error
    assert "does not exist" in told(capsys, tmp_path / "nowhere", code=EXIT_USAGE)
    (tmp_path / "empty").mkdir()
    assert "scalebench run" in told(capsys, tmp_path / "empty", code=EXIT_USAGE)
