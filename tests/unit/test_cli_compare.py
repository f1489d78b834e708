"""`scalebench compare` of stored records: the answer, the table, exit codes, git revisions, inputs that are none."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from scalebench.cli.main import exit_code
from scalebench.errors import EXIT_OK, EXIT_REGRESSION, EXIT_USAGE
from scalebench.records.record import Record
from scalebench.records.store import write_record
from tests.unit.factory import make_repeats, make_spec
from tests.unit.test_verdicts import pairs

SPEC = make_spec(world_size=2)


def store(folder: Path, records: Iterable[Record]) -> Path:
    for record in records:
        write_record(record, folder / record.session)
    return folder


@pytest.fixture
def sides(tmp_path: Path) -> tuple[str, str]:
    """20% slower, beyond doubt."""
    base, new = pairs(1.2, 0.01, 10)
    return str(store(tmp_path / "base", base)), str(store(tmp_path / "new", new))


Told = tuple[int, str, str]


def compare(capsys: pytest.CaptureFixture[str], *arguments: str) -> Told:
    code = exit_code(["compare", *arguments])
    return code, *capsys.readouterr()


def test_a_regression_is_said_first_and_fails(capsys: pytest.CaptureFixture[str], sides: tuple[str, str]) -> None:
    code, out, _ = compare(capsys, *sides)
    assert code == EXIT_REGRESSION
    first = out.splitlines()[0]
    assert first.startswith("3 regressions: ddp, 2 ranks, fp32: step time +")
    assert first.endswith("slower.")
    assert [line.split()[-2] for line in out.splitlines() if "step time" in line][1:] == ["slower"]
    assert "Exactly the same wherever both sides have it: parameters." in out


def test_the_same_folder_twice_is_the_same(capsys: pytest.CaptureFixture[str], sides: tuple[str, str]) -> None:
    code, out, _ = compare(capsys, sides[0], sides[0])
    assert (code, out.splitlines()[0]) == (
        EXIT_OK, "No regression: step time same in 1 cell.",
    )  # fmt: skip


def test_json_for_programs(capsys: pytest.CaptureFixture[str], sides: tuple[str, str]) -> None:
    code, out, _ = compare(capsys, *sides, "--format", "json")
    told = json.loads(out)
    by_metric = {row["metric"]: row for row in told["verdicts"]}
    assert code == EXIT_REGRESSION
    assert told["answer"].startswith("3 regressions")
    assert by_metric["step"]["regression"] is True
    assert by_metric["step"]["low"] < by_metric["step"]["ratio"] < by_metric["step"]["high"]
    assert (by_metric["step"]["units"], by_metric["step"]["unit_of_replication"]) == (10, "pair")
    assert by_metric["parameters"]["exact"] is True


def test_markdown_for_a_comment(capsys: pytest.CaptureFixture[str], sides: tuple[str, str]) -> None:
    _, out, _ = compare(capsys, *sides, "--format", "markdown")
    heads = [cell.strip() for cell in out.splitlines()[2].strip("|").split("|")]
    assert heads == ["cell", "metric", "baseline", "new", "change", "verdict", "reason"]
    assert "**slower**" in out


def test_a_plot(capsys: pytest.CaptureFixture[str], sides: tuple[str, str], tmp_path: Path) -> None:
    compare(capsys, *sides, "--plot", str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = compare(capsys, *sides, "--plot", str(tmp_path / "plot.nonsense"))
    assert (code, "--plot FILE.png" in err) == (EXIT_USAGE, True)


def test_fail_on_inconclusive(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base, new = (store(tmp_path / name, make_repeats(SPEC, [0.01, 0.0101], session=name)) for name in "ab")
    code, out, _ = compare(capsys, str(base), str(new))
    assert code == EXIT_OK
    assert out.startswith("No regression is shown, but not everything is known: step time inconclusive in 1 cell")
    assert compare(capsys, str(base), str(new), "--fail-on", "inconclusive")[0] == EXIT_REGRESSION


def git(folder: Path, *arguments: str) -> None:
    settings = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True)


def test_a_revision_of_a_results_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, new = pairs(1.2, 0.01, 10)
    store(tmp_path / "results" / "ci", base)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "baseline")
    for file in (tmp_path / "results" / "ci").rglob("*.json"):
        file.unlink()
    store(tmp_path / "results" / "ci", new)
    monkeypatch.chdir(tmp_path)
    assert compare(capsys, "HEAD:results/ci", "results/ci")[0] == EXIT_REGRESSION
    code, _, err = compare(capsys, "HEAD:results/none", "results/ci")
    assert (code, err.strip()) == (
        EXIT_USAGE,
        "scalebench: error: 'HEAD:results/none' does not exist: there is no such file or folder, and git has no "
        "'results/none' in the revision 'HEAD' (paths start at the repository's top).",
    )
    one = next((tmp_path / "results" / "ci").rglob("*.json")).relative_to(tmp_path)
    assert compare(capsys, f"HEAD:{one}", "results/ci")[0] == EXIT_OK


def test_outside_a_repository(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sides: tuple[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    code, _, err = compare(capsys, "main:results", sides[1])
    assert (code, "the current folder is in no git repository" in err) == (EXIT_USAGE, True)


def write(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def bad_inputs(folder: Path) -> dict[str, str]:
    """What is no side, and what must be said of it."""
    (folder / "empty").mkdir()
    write(folder / "truncated", "a.json", '{"record_schema": 1, "spec": {')
    write(folder / "foreign", "a.json", '{"machine_info": {}, "benchmarks": []}')
    write(folder / "old", "a.json", '{"record_schema": 0}')
    write(folder, "text.md", "# not a record")
    write(folder, "ci.toml", "[run]")
    return {
        "absent": "does not exist",
        "empty": "holds no records",
        "truncated": "holds no readable record",
        "foreign": "holds no readable record: a.json: not a valid record",
        "old": "record schema 0; this version reads 1",
        "text.md": "holds no readable record",
        "ci.toml": "Measure both sides in turn: --live",
        "none/of:it": "does not exist",
    }


def test_what_is_no_side_gets_one_clear_sentence(
    capsys: pytest.CaptureFixture[str], sides: tuple[str, str], tmp_path: Path
) -> None:
    for name, told in bad_inputs(tmp_path).items():
        for arguments in ((str(tmp_path / name), sides[1]), (sides[0], str(tmp_path / name))):
            code, out, err = compare(capsys, *arguments)
            assert (code, out, len(err.splitlines())) == (EXIT_USAGE, "", 1), (name, err)
            assert told in err, (name, err)


def test_a_damaged_file_among_others_is_named_and_left_out(
    capsys: pytest.CaptureFixture[str], sides: tuple[str, str]
) -> None:
    write(Path(sides[0]), "broken.json", "{")
    code, _, err = compare(capsys, *sides)
    assert (code, "damaged, left out" in err, "broken.json" in err) == (EXIT_REGRESSION, True, True)


def test_other_cells_are_not_compared(
    capsys: pytest.CaptureFixture[str], sides: tuple[str, str], tmp_path: Path
) -> None:
    other = store(tmp_path / "other", make_repeats(make_spec(strategy="fsdp"), [0.01, 0.01]))
    code, _, err = compare(capsys, sides[0], str(other))
    assert (code, "the nearest differs in strategy ddp -> fsdp" in err) == (EXIT_USAGE, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--slower", "0"], "expected a share between 0 and 1"),
        (["--limit", "memroy=2%"], "unknown metric 'memroy'. Did you mean 'memory'?"),
        (["--limit", "memory=200%"], "expected a share"),
        (["--pairs", "5"], "--pairs says how to measure: it needs --live"),
        (["--margin", "x"], "expected a share"),
    ],
)
def test_wrong_options(
    capsys: pytest.CaptureFixture[str], sides: tuple[str, str], arguments: list[str], told: str
) -> None:
    code, _, err = compare(capsys, *sides, *arguments)
    assert (code, told in err) == (EXIT_USAGE, True), err
