"""Generators of input as nobody should give it: command lines, configuration files, records with mistakes in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

from scalebench.cli import main
from scalebench.matrix.request import Request

NAMES = (
    *("list", "report", "compare", "explain", "completion", "nonsense", "train", "probe", "doctor"),
    *("data split", "data synth", "data encode"),
)
COMMANDS = {name: [name, "--dry-run"] for name in ("run", "parity")} | {name: name.split() for name in NAMES}
"""What is called. Whoever calls it keeps those that would start ranks, given nothing wrong, from doing so."""
TYPED = """
ddp fsdp,single deepspeed,ddp 1 2 0 -1 1.5 1,2 64 100000 9007199254740991 all doubling fp32 bf16,32 fp16-true none
tiny 124m,tiny 13b weak,strong , a=b workload.num_layers=1 workload.num_layers=1000000 workload.context_length=[1,2]
strategy.x=[ strategy.prefetch=1 strategy.prefetch=[] é {} {a=1} synthetic stdlib -- -h --help ~nobody-here nan inf
1e400 2% 100% results results/s1 . bash session s1 cpu cuda failed,oom matched sgd auto max best 1GiB
0.5 10% 7 digits images:results arrays:nowhere limits tensorboard loss=1 cosine images parts net.py:make
vavae results/s1@x
"""
WORDS = TYPED.split()
ODD_WORDS = ["", " ", "\udcff", "x" * 300, "\n", "\x1b[31m", "-", "=", "💥"]


RIGHT = {
    "run": ["--strategy", "ddp", "--device", "cpu"],
    "parity": ["--strategy", "fsdp", "--device", "cpu"],
    "train": ["--strategy", "ddp", "--device", "cpu", "--gpus", "1", "--data", "synthetic"],
    "data synth": ["--output-dir", "parts"],
    "data encode": ["--checkpoint", "x.pt", "--data", "digits", "--output-dir", "parts"],
}
"""What makes a command whole, so that what is added to it comes further than its missing flags."""


def flags_of(command: str) -> dict[str, list[str]]:
    """The flags of a command, as it declares them, each with the words that suit it: all of them where it has none."""
    found: Any = main.scalebench
    for name in command.split():
        found = found and found.get_command(None, name)
    options = found.params if found else []
    return {
        flag: [*getattr(option.type, "choices", ())] or WORDS
        for option in options
        for flag in (*option.opts, *option.secondary_opts)
    }


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command, whole or not, with flags, words that suit them, and words that suit none, in any order."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    short_text = st.text(st.characters(exclude_characters="/"), max_size=6)  # no path out of here
    word = st.one_of(st.sampled_from(WORDS), st.sampled_from(ODD_WORDS), short_text)
    flags = flags_of(command) or {"--x": WORDS}
    flag = st.sampled_from(sorted(flags))
    suited = flag.flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(flags[name])))
    parts = draw(st.lists(st.one_of(suited, suited, flag, word, st.tuples(flag, word)), max_size=6))
    begun = RIGHT.get(command, []) if draw(st.booleans()) else []
    return [
        *(*COMMANDS[command], *begun),
        *(text for part in parts for text in ([part] if isinstance(part, str) else part)),
    ]


ODD_TOML = (
    "1 0 -1 1.5 nan inf true false '' 'ddp' ['ddp','fsdp'] [] [[]] [1,2] [true,false] {a=1} {strategy={x=1}} "
    "{workload={num_layers=[1,2]}} 2030-01-01 07:32:00 'all' [[1]] '~nobody' '1,2' 'tiny' [0.001] 'fp32,bf16' "
    r"0x7fffffff 9223372036854775807 '\u0000' " + r'"\u0000" "\n" "\u001b[31m" '
).split()
TABLES = ("exclude", "include", "override", "set", "where", "run", "nonsense")


@st.composite
def toml_lines(draw: st.DrawFn) -> str:
    """A line of a configuration file: a key with a value it may or may not take, a table's head, or anything."""
    names = [*Request.model_fields, "stepps", "micro-batch", "where.size", "set.workload.dropout", "'quoted key'"]
    table = draw(st.sampled_from(TABLES))
    kinds = (
        st.builds("{} = {}".format, st.sampled_from(names), st.sampled_from(ODD_TOML)),
        st.sampled_from([f"[[run.{table}]]", f"[run.{table}]", f"[{table}]", "[run.override.where]", "[[run.include"]),
        st.sampled_from(["strategy = 'ddp'", "strategy = ['ddp', 'fsdp']", "# a remark", "", "steps = 5 # exactly"]),
        st.text(max_size=12),
    )
    return draw(st.one_of(*kinds))


def toml_files() -> st.SearchStrategy[bytes]:
    """Configuration files: lines as above under `[run]`, or bytes that are no text."""
    written = st.lists(toml_lines(), max_size=8).map(lambda lines: "[run]\n" + "\n".join(lines))
    return st.one_of(written.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=40))


VALUES: dict[str, tuple[str, Sequence[str]]] = {
    "precision": ('["fp32", "bf16"]', ["'fp8'", "3", "[]", "['fp32', true]"]),
    "size": ("'tiny'", ["''", "5", "'125m'"]),
    "micro_batch": ("[1, 2]", ["0", "'x'", "1.5", "[1, -1]"]),
    "steps": ("5", ["true", "0", "'many'"]),
    "learning_rate": ("0.001", ["0", "nan", "'fast'"]),
    "compile": ("false", ["'no'", "0"]),
    "seed": ("3", ["-1", "0.5"]),
    "repeats": ("2", ["0", "[1]"]),
    "results": ("'r'", ["''", "[]"]),
    "stepps": ("", ["1"]),
}
"""Keys with a right value, and with wrong ones."""


@st.composite
def one_mistake(draw: st.DrawFn) -> tuple[str, str, int]:
    """A file whose keys but one are right, with remarks and long values between them; that key, and its line."""
    keys = draw(st.permutations(sorted(VALUES)))
    wrong = draw(st.sampled_from(keys))
    lines, line = ["[run]", "strategy = [", "  'ddp',", "]"], 0
    for key in keys:
        right, mistakes = VALUES[key]
        lines += draw(st.lists(st.sampled_from(["", "# steps = 0", "# [[run.exclude]]"]), max_size=2))
        if key == wrong:
            line = len(lines) + 1
        if key == wrong or right:
            lines.append(f"{key} = {draw(st.sampled_from(mistakes)) if key == wrong else right}")
    return "\n".join(lines), wrong, line


JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 5),
        st.sampled_from([2**31, 2**53, -(2**63), 2**63, 10**30, -(10**30)]),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["ok", "oom", "fp32", "single", "interrupted", "1970-01-01T00:00:00+00:00", "\ud800"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a JSON document, of long lists only the ends."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, 1, len(value) - 1} & set(range(len(value)))):
            yield from places(value[index], (*path, index))


@st.composite
def damaged_records(draw: st.DrawFn, record: dict[str, Any]) -> bytes:
    """A record's file in which some values are others, missing or there twice, or whose bytes are cut or flipped."""
    document = json.loads(json.dumps(record))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(places(document))[1:] or [()]))
        if path:
            _change(draw, document, path)
    content = json.dumps(document).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(content) - 1))
        content = draw(st.sampled_from([content[:at], content[:at] + draw(st.binary(max_size=3)) + content[at + 1 :]]))
    return content


def _change(draw: st.DrawFn, document: Any, path: tuple[Any, ...]) -> None:
    holder = document
    for part in path[:-1]:
        holder = holder[part]
    what = draw(st.sampled_from(["alike", "alike", "alike", "replace", "delete", "repeat"]))
    if what == "alike":
        holder[path[-1]] = draw(alike(holder[path[-1]]))
    elif what == "replace":
        holder[path[-1]] = draw(JSON_VALUES)
    elif what == "delete":
        del holder[path[-1]]
    elif isinstance(holder, list):
        holder.append(holder[path[-1]])
    else:
        holder[draw(st.text(max_size=5))] = holder[path[-1]]


def alike(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same type, which a validator may well let pass."""
    if isinstance(value, bool) or value is None:
        return st.sampled_from([True, False, None, 0, 1.5, "gloo", [], {}])
    if isinstance(value, int):
        return st.sampled_from([0, 1, -1, 2, 7, value + 1, -value, 2**31, 2**62, 2**63 - 1, -(2**63), 10**15])
    if isinstance(value, float):
        return st.one_of(st.floats(), st.sampled_from([0.0, -value, value * 1e9, 1e308]))
    if isinstance(value, str):
        words = ["", "cuda", "single", "fsdp", "bf16", "strong", "no such", "2030-01-01T00:00:00+00:00", "💥"]
        return st.sampled_from([*words, value + "x"])
    if isinstance(value, list):
        return st.sampled_from([[], value[:1], value[1:], value[::-1], value + value, [*value, *value[:1]]])
    return st.sampled_from([{}, dict(list(value.items())[1:])])
