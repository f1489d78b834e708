"""The order of pairs, looks, and what a live comparison refuses before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalebench.cli.live import QUESTION, State, read_looks
from scalebench.cli.main import exit_code
from scalebench.errors import EXIT_USAGE, UserError
from scalebench.harness.turns import Place, SideProcess, order
from tests.unit.factory import make_record, make_spec

SPECS = make_spec(), make_spec(strategy="fsdp")


def test_two_pairs_are_a_palindrome_and_their_order_is_chance() -> None:
    firsts = [order(SPECS, pair)[0] for pair in range(200)]
    assert all(one == 1 - other for one, other in zip(firsts[::2], firsts[1::2], strict=True))
    assert 30 < sum(firsts[::2]) < 70  # of 100 throws of a coin
    assert firsts == [order(SPECS, pair)[0] for pair in range(200)]


def test_a_look_sees_whole_pairs_and_no_more_than_its_own() -> None:
    state = State()
    for repeat in (0, 1, 3):
        state.take([make_record(SPECS[side], repeat=repeat) for side in (0, 1)])
    state.records[0].append(make_record(SPECS[0], repeat=4))  # stopped before the other side had its turn
    assert (state.pairs, state.next_pair) == (3, 5)
    assert [[r.repeat for r in side] for side in state.first(2)] == [[0, 1], [0, 1]]
    assert [[r.repeat for r in side] for side in state.first(9)] == [[0, 1, 3], [0, 1, 3]]


def test_a_failed_run_ends_the_pairs_of_its_cell() -> None:
    state = State()
    state.take([make_record(SPECS[0]), make_record(SPECS[1], status="oom", reason="full")])
    assert state.failed
    assert [len(side) for side in state.first(5)] == [0, 1]


@pytest.mark.parametrize("given", ["", "x", "10,", "20,10", "10,10", "2"])
def test_wrong_looks(given: str) -> None:
    if given:
        with pytest.raises(UserError, match="--pairs"):
            read_looks(given)
    else:
        assert read_looks(None) == (10, 20, 40)


def test_a_folder_of_another_comparison_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.toml").write_text(FILES["one.toml"])
    for known, told in (("[]", "pairs of another comparison"), ("{", "is damaged. Remove it")):
        Path(QUESTION).write_text(known)
        assert exit_code(["compare", "--live", "one.toml", "one.toml", "--results", "."]) == EXIT_USAGE
        assert told in capsys.readouterr().err
        assert Path(QUESTION).read_text() == known


FILES = {
    "one.toml": '[run]\nstrategy = "ddp"\ngpus = 1\ndata = "synthetic"',
    "two.toml": '[run]\nstrategy = ["ddp", "fsdp"]\ngpus = 1\ndata = "synthetic"',
    "search.toml": '[run]\nstrategy = "ddp"\ngpus = 1\nmicro_batch = "auto"',
    "broken.toml": "[run",
    "empty": "",
    "old/scalebench/__init__.py": "",
}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["one.toml", "two.toml"], "asks for 1 cells and 'two.toml' for 2"),
        (["one.toml", "search.toml"], "a search finds its own cells"),
        (["one.toml", "broken.toml"], "not valid TOML"),
        (["one.toml", "absent.toml"], "cannot be read"),
        (["one.toml", "empty"], "strategy"),
        (["one.toml", "one.toml", "--checkouts", "absent", "."], "there is no such folder"),
        (["one.toml", "one.toml", "--checkouts", "old", "."], "too old to be compared"),
        (["one.toml", "one.toml", "--pythons", "/nowhere/python", "/nowhere/python"], "cannot be started"),
        (["one.toml", "one.toml", "--pythons", "/bin/false", "/bin/false"], "its process ended"),
    ],
)
def test_what_cannot_be_compared_gets_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    assert exit_code(["compare", "--live", *arguments, "--results", "r"]) == EXIT_USAGE
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert told in errors[0]


SIDE = """
import json, os, sys
print(json.dumps({"error": f"{os.path.basename(os.getcwd())} runs its own, into {sys.argv[1]}"}))
"""


def test_a_side_runs_what_is_in_its_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever tree the command is typed in, for that comes first in what `python -m` imports from."""
    for tree in "ab":
        package = tmp_path / tree / "scalebench" / "harness"
        package.mkdir(parents=True)
        for file, text in (
            (package.parent / "__init__.py", ""),
            (package / "__init__.py", ""),
            (package / "side.py", SIDE),
        ):
            file.write_text(text)
    monkeypatch.chdir(tmp_path / "b")
    for tree in "ab":
        with pytest.raises(UserError, match=f"{tree} runs its own, into {tmp_path / 'b' / 'results' / 'a'}$"):
            SideProcess("a", Place(checkout=tmp_path / tree), Path("results"), "session", [])
