"""Options of strategies and workloads (`--set strategy.NAME=VALUE`, `--set workload.NAME=VALUE`), checked."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from scalebench import strategies, workloads
from scalebench.errors import UserError, unknown_name
from scalebench.matrix.request import RequestError


def workload_options(name: str, size: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of the workload with its value, as asked or as the size has it. Raises UserError for a wrong one."""
    try:
        return dict(workloads.resolve_options(name, size, asked))
    except UserError as error:
        key = ("set", "workload", *_wrong_one(name, size, asked)) if asked else ("workload",)
        raise RequestError(key, str(error)) from None


def _wrong_one(name: str, size: str, asked: Mapping[str, Any]) -> tuple[str, ...]:
    """The first of the options `asked` that is wrong by itself; none where only some of them together are."""
    for option, value in asked.items():
        try:
            workloads.resolve_options(name, size, {option: value})
        except UserError:
            return (option,)
    return ()


def strategy_options(names: Sequence[str], asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Per strategy in `names` the `asked` options that it has. Imports the strategies only if an option is asked.

    Raises UserError for an option that none of the strategies has, and for a value of another type.
    """
    if not asked:
        return {name: {} for name in names}
    types = {name: option_types(name) for name in names}
    known = {option for of_one in types.values() for option in of_one}
    for option in asked:
        if option not in known:
            raise RequestError(("set", "strategy", option), str(unknown_name("strategy option", option, known)))
    return {
        name: {option: _checked(option, value, of_one[option]) for option, value in asked.items() if option in of_one}
        for name, of_one in types.items()
    }


def option_types(name: str) -> dict[str, Any]:
    """Each option of strategy `name` with its type. Raises UserError when the strategy's package is missing."""
    try:
        hints = typing.get_type_hints(strategies.strategy_class(name))
    except ImportError as error:
        raise UserError(
            f"the options of {name} are unknown here: {error}. Install its package, or leave --set out."
        ) from error
    return {option: hints[option] for option in strategies.option_fields(name)}


def _checked(option: str, value: object, declared: Any) -> object:
    try:
        return TypeAdapter(declared).validate_python(value, strict=True)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        message = f"strategy.{option} cannot be {value!r}. {said} (type {_type_name(declared)})."
        raise RequestError(("set", "strategy", option), message) from None


def _type_name(declared: Any) -> str:
    return declared.__name__ if isinstance(declared, type) else str(declared).replace("typing.", "")
