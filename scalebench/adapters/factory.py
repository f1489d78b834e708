"""The user's factory and its options: the arguments of its signature that are plain values."""

from __future__ import annotations

import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from torch import nn

from scalebench.adapters import BLOCKS, RESERVED, Scalar
from scalebench.adapters.importing import load_module, told
from scalebench.errors import UserError, did_you_mean, unknown_name

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, kw_only=True)
class Factory:
    """What a name stands for: one callable, or several (`file.py:Model+Data`) that share the options.

    Attributes:
        name: as a spec stores it.
        parts: the callables, in order.
    """

    name: str
    parts: tuple[Callable[..., Any], ...]

    def resolved(self, asked: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Every option that has a plain value: the signature's default, or what was `asked`. Raises UserError."""
        known = self._parameters()
        defaults = {name: parameter.default for name, parameter in known.items() if _is_plain(parameter.default)}
        return defaults | {name: self._checked(name, value, known) for name, value in asked.items()}

    def make(self, options: Mapping[str, Scalar]) -> list[Any]:
        """What each part returns. Raises UserError for what it raises, and for options without a value."""
        given = {name: value for name, value in options.items() if name not in RESERVED or name in self._parameters()}
        missing = [name for name, one in self._parameters().items() if one.default is one.empty and name not in given]
        if missing:
            raise UserError(f"{self.name} needs {missing[0]}. Give --set workload.{missing[0]}=VALUE.")
        with told(self.name):
            return [part(**_taken(part, given)) for part in self.parts]

    def _parameters(self) -> dict[str, inspect.Parameter]:
        """The arguments that can be given by name."""
        return {name: one for part in self.parts for name, one in _signature(part).items() if one.kind not in _VARIADIC}

    def _checked(self, name: str, value: Scalar, known: Mapping[str, inspect.Parameter]) -> Scalar:
        if name not in known:
            takes_any = any(one.kind is one.VAR_KEYWORD for part in self.parts for one in _signature(part).values())
            if name in RESERVED or takes_any:
                return value
            raise unknown_name(f"option of {self.name}", name, [*known, BLOCKS])
        declared = self._declared(name, known[name])
        try:
            return TypeAdapter(declared).validate_python(value, strict=True)  # type: ignore[no-any-return]
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            raise UserError(f"workload.{name} cannot be {value!r}: {said}.") from None
        except (PydanticUserError, PydanticSchemaGenerationError):  # a type that has no plain values
            return value

    def _declared(self, name: str, parameter: inspect.Parameter) -> Any:
        """Its annotation; without one, the type of its default."""
        for part in self.parts:
            hints = _hints(part)
            if name in hints:
                return hints[name]
        return Any if parameter.default in (None, parameter.empty) else type(parameter.default)


_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


@functools.lru_cache(maxsize=8)
def load_factory(name: str) -> Factory:
    """The factory called `name`, its module imported. Raises UserError when it is not there."""
    place, _, names = name.rpartition(":")
    module = load_module(place)
    return Factory(name=name, parts=tuple(_found(module, place, one) for one in names.split("+")))


def _found(module: Any, place: str, name: str) -> Callable[..., Any]:
    found: Any = module
    for part in name.split("."):
        with told(place):  # packages may import their parts when they are asked for
            found = getattr(found, part, None)
    if callable(found) and not isinstance(found, nn.Module):
        return found  # type: ignore[no-any-return]
    if found is not None:
        raise UserError(
            f"'{name}' in {place} is a value of type {type(found).__name__}, which makes nothing. Name a function or "
            "a class."
        )
    own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    defined = [key for key in own if getattr(module, key).__module__ == module.__name__] or own
    listed = f" It has: {', '.join(sorted(defined)[:10])}." if defined else ""
    raise UserError(f"{place} has no '{name}'.{did_you_mean(name, dir(module))}{listed}")


def _signature(part: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(part).parameters
    except (TypeError, ValueError):  # of some built-in ones
        return {}


def _hints(part: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(vars(part).get("__init__", part) if isinstance(part, type) else part)
    except Exception:  # annotations may name anything, even what is only imported for type checkers
        return {}


def _taken(part: Callable[..., Any], options: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Those of `options` that `part` takes."""
    known = _signature(part)
    if any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return dict(options)
    return {name: value for name, value in options.items() if name in known}


def _is_plain(value: object) -> bool:
    return isinstance(value, PLAIN) and not (isinstance(value, float) and not math.isfinite(value))
