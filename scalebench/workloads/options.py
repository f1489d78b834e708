"""The options of a workload (`--set workload.NAME=VALUE`), checked against the fields of its config. Torch-free."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from scalebench.errors import UserError, unknown_name
from scalebench.workloads.config import Config

Scalar = bool | int | float | str | None
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "none"}


def checked_options(base: Config, options: Mapping[str, Scalar]) -> dict[str, Any]:
    """`options` in the types of the fields of `base`. Raises UserError for an unknown name or a value of another type.

    A whole number is taken where any number is; where None is allowed it is one more value.
    """
    hints = typing.get_type_hints(type(base))
    known = [field.name for field in dataclasses.fields(base)]
    for name in options:
        if name not in known:
            raise unknown_name("option of the workload", name, known)
    return {name: _checked(base, name, value, hints[name]) for name, value in options.items()}


def _checked(base: Config, name: str, value: Scalar, hint: Any) -> Any:
    allowed = list(_alternatives(hint))
    if any(_is(value, kind) for kind in allowed):
        return value
    if float in allowed and type(value) is int:
        return float(value)
    wanted = ", or ".join(kind if isinstance(kind, str) else WORDS[kind] for kind in allowed)
    example = _written(getattr(base, name))
    raise UserError(f"workload.{name} is {value!r}; give {wanted}, e.g. --set workload.{name}={example}.")


def _alternatives(hint: Any) -> typing.Iterator[Any]:
    """The types and the words that a field's annotation allows."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        for one in typing.get_args(hint):
            yield from _alternatives(one)
    elif typing.get_origin(hint) is Literal:
        yield from typing.get_args(hint)
    else:
        yield hint


def _is(value: Scalar, kind: type | str) -> bool:
    """Whether `value` is this word, or of this type and no other; of numbers, finite."""
    if isinstance(kind, str):
        return value == kind
    return type(value) is kind and not (isinstance(value, float) and not math.isfinite(value))


def _written(value: Scalar) -> str:
    """`value` as one types it."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
