"""Configuration files: what they say becomes a Request, what is wrong in them is told by file, line and key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebench.cli.asking import line_of, read_asked, read_assignments
from scalebench.errors import UserError
from scalebench.machine import Machine
from scalebench.matrix import Request, RequestError, resolve

CPU = Machine(device="cpu", gpu_count=0, cores=2, bf16_native=False)
GPUS = Machine(device="cuda", gpu_count=8, cores=64, bf16_native=True)
DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


def request_of(folder: Path, text: str, **flags: Any) -> Request:
    file = folder / "bench.toml"
    file.write_text(text)
    return read_asked(flags, file).request()


def test_a_file_says_the_same_as_flags(tmp_path: Path) -> None:
    text = """
    [run]
    strategy = ["ddp", "fsdp"]
    gpus = [1, "all"]
    precision = "fp32,bf16"
    micro_batch = 8
    clip_norm = "none"
    learning_rate = 1e-3
    baseline = false
    set.workload.num_layers = 3
    """
    flags = {
        "strategy": "ddp,fsdp",
        "gpus": "1,all",
        "precision": "32,bf16-mixed",
        "micro_batch": "8",
        "clip_norm": "none",
        "learning_rate": "0.001",
        "baseline": False,
        "set": read_assignments(["workload.num_layers=3"]),
    }
    assert request_of(tmp_path, text) == read_asked(flags, None).request()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[run]\nstrategy = 'ddp'\n\n# more\nmicro_batch = 0\n", 5, ["micro_batch", "at least 1", "0 was given"]),
        ("[run]\nstrategy = [\n  'ddp',\n  'fsdpp',\n]\nsteps = 5", 2, ["strategy", "Did you mean 'fsdp'"]),
        ("[run]\nsteps = 10\nstepps = 10\n", 3, ["unknown key 'stepps'", "Did you mean 'steps'"]),
        ("[run]\nmicro-batch = 8", 2, ["unknown key 'micro-batch'", "Did you mean 'micro_batch'"]),
        ("\n\n[bench]\nsteps = 1", 3, ["'bench'", "[run]"]),
        ("steps = 1\n[run]", 1, ["'steps'", "[run]"]),
        ("run = 5", 1, ["'run'", "[run]"]),
        ("[run]\ncompile = 'yes'", 2, ["compile", "true or false"]),
        ("[run]\nsteps = true", 2, ["steps", "whole number"]),
        ("[run]\nseed = 1.0", 2, ["seed", "whole number"]),
        ("[run]\ngpus = 2030-01-01", 2, ["gpus", "whole number"]),
        ("[run]\nset = 3", 2, ["set", "dictionary"]),
        ("[run]\n[run.set]\nstrategies.x = 1", 3, ["set.strategies", "'strategy' or 'workload'"]),
        ('[run]\ndata = """\nsteps = 1\n"""\nsteps = 0', 5, ["steps"]),
        ("[run]\nresults = 'a\\u0000b'", 2, []),
    ],
)
def test_a_mistake_is_told_by_line_and_key(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    if "u0000" in text:
        text = text.replace("'", '"')
    with pytest.raises(UserError) as caught:
        request_of(tmp_path, text)
    message = str(caught.value)
    assert f"bench.toml, line {line}" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("[run]\nstrategy = 'ddp'\nglobal_batch = 8\nscaling = 'weak'", 3, "--scaling strong"),
        ("[run]\nstrategy = 'ddp'\n[run.set]\nworkload.num_layers = 2\nworkload.layers = 2", 5, "num_layers"),
        ("[run]\nstrategy = 'ddp'\n[run.set.strategy]\nbucket_cap_mb = 'x'", 4, "bucket_cap_mb"),
        ("[run]\nstrategy = 'ddp'\ndata = '/no/such/file'", 3, "does not exist"),
        ("[run]\nstrategy = 'ddp'\nsize = '125m'", 3, "124m"),
        ("[run]\nstrategy = 'ddp'\ngpus = 1_000_000", 3, "there can be 64"),
    ],
)
def test_what_only_the_whole_shows_is_told_by_line_too(tmp_path: Path, text: str, line: int, word: str) -> None:
    file = tmp_path / "bench.toml"
    file.write_text(text)
    asked = read_asked({}, file)
    with pytest.raises(RequestError) as caught:
        resolve(asked.request(), CPU)
    message = str(asked.located(caught.value))
    assert f"bench.toml, line {line}, " in message
    assert word in message


def test_a_wrong_flag_over_a_right_file_is_told_as_the_flag(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--steps: "):
        request_of(tmp_path, "[run]\nsteps = 5", steps="x")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"[run\n", "line 1"),
        (b"[run]\nsteps = = 1", "line 2"),
        (b"[run]\nsteps = 1\nsteps = 2", "line 3"),
        (b"\xff\xfe", "not UTF-8"),
        (b"x = " + b"[" * 5000, "not valid TOML"),
    ],
)
def test_what_is_no_toml_is_told(tmp_path: Path, content: bytes, word: str) -> None:
    file = tmp_path / "bench.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"bench\.toml") as caught:
        read_asked({}, file)
    assert word in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    for file, said in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UserError, match=said):
            read_asked({}, file)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ("0.5", 0.5), ("false", False), ("powersgd", "powersgd"), ("[1, 2]", [1, 2]), ("1\nb = 2", "1\nb = 2")],
)
def test_the_value_of_an_option_is_read_as_in_a_file_or_as_text(text: str, value: object) -> None:
    assert read_assignments([f"strategy.x={text}", "strategy.y=1"]) == {"strategy": {"x": value, "y": 1}}


@pytest.mark.parametrize("wrong", ["", "x", "x=1", "strategy=1", "strategy.=1", "model.x=1", "strategy.x"])
def test_an_assignment_without_its_parts_is_refused(wrong: str) -> None:
    with pytest.raises(UserError, match=r"strategy\.NAME=VALUE"):
        read_assignments([wrong])


keys = st.text("abc", min_size=1, max_size=3)
values = st.one_of(
    st.integers(-5, 5).map(str),
    st.just("true"),
    st.just("[\n 1,\n 2,\n]"),
    st.just('"""\nabc = 1\n"""'),
    st.just("'x'"),
)
fillers = st.sampled_from(["", "\n", "# abc = 1\n", "\n\n# note\n"])


@given(statements=st.dictionaries(keys, st.tuples(fillers, values), min_size=1, max_size=6))
def test_the_line_of_a_key_is_where_its_statement_begins(statements: dict[str, tuple[str, str]]) -> None:
    text, expected = "[run]\n", {}
    for key, (filler, value) in statements.items():
        text += filler
        expected[key] = text.count("\n") + 1
        text += f"{key} = {value}\n"
    assert {key: line_of(text, ("run", key)) for key in statements} == expected


def test_the_documented_example_is_valid_and_every_key_is_documented(tmp_path: Path) -> None:
    text = DOCS.read_text()
    examples = [part.split("```")[0] for part in text.split("```toml\n")[1:]]
    assert len(examples) == 2
    for example in examples:
        assert tomllib.loads(example)
        resolve(request_of(tmp_path, example), GPUS if "doubling" in example else CPU)
    for key in Request.model_fields:
        assert f"`{key}`" in text, key
