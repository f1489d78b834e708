"""From flags and a TOML file to a Request; a mistake is told by its flag, or by its file, line and key."""

from __future__ import annotations

import contextlib
import json
import tomllib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scalebench.errors import UserError, did_you_mean
from scalebench.matrix import Axes, Request, RequestError
from scalebench.matrix.request import merged_options

TABLE = "run"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked, and where each value was: `flags` as Request fields, over the `[run]` table of `file`.

    Attributes:
        flags: Request field to value; only what was given.
        table, text, file: the `[run]` table, the whole file it stands in, and that file's path; empty without one.
    """

    flags: Mapping[str, Any]
    table: Mapping[str, Any]
    text: str = ""
    file: Path | None = None

    def request(self) -> Request:
        """Everything that was asked, a flag before the file. Raises UserError that says where the mistake stands."""
        values = dict(self.table) | dict(self.flags)
        if isinstance(self.table.get("set"), dict) and "set" in self.flags:
            values["set"] = merged_options(self.table["set"], self.flags["set"])
        if isinstance(values.get("deepspeed_config"), str):
            values["deepspeed_config"] = read_json(Path(values["deepspeed_config"]))
        try:
            return Request.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = tuple(str(part) for part in first["loc"] if part != "[key]")
            raise UserError(f"{self.where(key)}: {_said(first)}") from None

    def located(self, error: RequestError) -> UserError:
        """`error` with the place that its key was given at."""
        return UserError(f"{self.where(error.key)}: {error}")

    def where(self, key: Sequence[str]) -> str:
        """`--micro-batch`, `--set strategy.bucket_mb`, or `bench.toml, line 4, exclude.precision`."""
        flag = tuple(key[:3] if key[0] == "set" else key[:1])
        held = next((key[:count] for count in range(len(key), 0, -1) if _holds(self.table, key[:count])), ())
        if held and not _holds(self.flags, flag):
            name = ".".join(part for part in held if not part.isdigit())
            return f"{self.file}, line {line_of(self.text, (TABLE, *held))}, {name}"
        return f"--set {'.'.join(flag[1:])}" if flag[0] == "set" else f"--{flag[0].replace('_', '-')}"


def read_asked(flags: Mapping[str, Any], file: Path | None) -> Asked:
    """`flags` over the `[run]` table of `file`. Raises UserError for a file that cannot be read as one."""
    if file is None:
        return Asked(flags=flags, table={})
    text, document = read_toml(file)
    for name, value in document.items():
        if name != TABLE or not isinstance(value, dict):
            line = line_of(text, (name,))
            raise UserError(
                f"{file}, line {line}: '{name}' is not allowed here; every key belongs into the table [{TABLE}]."
            )
    table = document.get(TABLE, {})
    for name in table:
        if name not in Request.model_fields:
            line = line_of(text, (TABLE, name))
            near = did_you_mean(name.replace("-", "_"), Request.model_fields)
            raise UserError(
                f"{file}, line {line}: unknown key '{name}'.{near} Allowed: {', '.join(Request.model_fields)}."
            )
    return Asked(flags=flags, table=table, text=text, file=file)


def read_toml(file: Path) -> tuple[str, dict[str, Any]]:
    """The text and the document in `file`. Raises UserError."""
    text = _read(file)
    try:
        return text, tomllib.loads(text + "\n")  # so that a mistake on the last line has a line too
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: not valid TOML: {error}.") from None
    except RecursionError:
        raise UserError(f"{file}: not valid TOML: nested too deeply.") from None


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`. Raises UserError."""
    try:
        value = json.loads(_read(file), object_pairs_hook=_each_once)
    except _TwiceError as error:
        raise UserError(f"{file}: the key '{error}' stands there twice in one object. Remove one.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}.") from None
    except RecursionError:
        raise UserError(f"{file}: not valid JSON: nested too deeply.") from None
    if not isinstance(value, dict):
        raise UserError(f'{file}: expected a JSON object, e.g. {{"zero_optimization": {{"stage": 2}}}}.')
    return value


def read_assignments(
    assignments: Sequence[str], sections: Sequence[str] = ("strategy", "workload")
) -> dict[str, dict[str, Any]]:
    """`strategy.X=V` and `workload.X=V` as Request.set. V is read as TOML where it is that, else as text."""
    options: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        section, dot, option = name.partition(".")
        if not (equals and dot and option and section in sections):
            expected = " or ".join(f"{section}.NAME=VALUE" for section in sections)
            raise UserError(f"--set {assignment}: expected {expected}.")
        options.setdefault(section, {})[option] = _value(value)
    return options


def line_of(text: str, path: Sequence[str]) -> int:
    """The line, from 1, on which the TOML statement starts that first makes `path` exist in `text`.

    A prefix of the file that is valid TOML ends between two statements, and what it holds all longer ones hold. So the
    shortest prefix whose completion to a valid one holds `path` ends with the first line of that statement.
    """
    lines = text.split("\n")
    prefixes = range(len(lines) + 1)
    first = bisect_left(prefixes, True, key=lambda length: _holds(_completed(lines, length), path))
    return min(first, len(lines))


def _completed(lines: Sequence[str], length: int) -> dict[str, Any]:
    """What the shortest valid TOML of at least the first `length` of `lines` holds."""
    for end in range(length, len(lines) + 1):
        with contextlib.suppress(tomllib.TOMLDecodeError):
            return tomllib.loads("\n".join(lines[:end]) + "\n")
    return {}


class _TwiceError(Exception):
    """A key of a JSON object that stands there twice; DeepSpeed refuses it, and json would take the last."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(next(key for key, _ in pairs if [name for name, _ in pairs].count(key) > 1))
    return found


def _holds(document: Mapping[str, Any], path: Sequence[str]) -> bool:
    value: Any = document
    for part in path:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return False
    return True


def _said(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])
        return f"unknown key '{name}'.{did_you_mean(name, Axes.model_fields)} Allowed: {', '.join(Axes.model_fields)}."
    reason = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
    given = error["input"]
    named = isinstance(given, str) and f"'{given}'" in reason
    return reason if named else f"{reason}; {given!r} was given."


def _value(text: str) -> Any:
    try:
        document = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return document["value"] if len(document) == 1 else text


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text (byte {error.start}).") from None
    except ValueError:  # a NUL in the name
        raise UserError(f"{str(file)!r} cannot be a file's name.") from None
