"""Axes: a request with several values is the product of requests with one; a part of a request matches cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from scalebench import data, workloads
from scalebench.errors import UserError
from scalebench.machine import Machine
from scalebench.matrix.ranks import ranks_meant
from scalebench.matrix.request import Axes, Request, RequestError
from scalebench.spec import RunSpec
from scalebench.workloads.checkpoint_name import resolve_checkpoint

SERIES = ("strategy", "gpus")
"""Fields that stay lists: the numbers of ranks of a scaling series and the strategies in it decide together."""
INNERMOST = ("precision", "tf32")
PRODUCT = (
    *(name for name in Axes.model_fields if name not in (*SERIES, *INNERMOST, "set")),
    *INNERMOST,
)
"""Fields that are multiplied, in the order in which cells stand."""
NAMED_OTHERWISE = {"gpus": "world_size", "memory_limit": "memory_limit_bytes"}
"""Axes that are fields of a spec under another name."""
MOST_CELLS = 10_000
"""More are taken for a mistake."""

Value = TypeVar("Value")


def one(values: tuple[Value, ...] | None, default: Value) -> Value:
    """The value of a field that holds one, or `default` where nothing was asked."""
    return values[0] if values else default


def points(request: Request) -> Iterator[Request]:
    """`request` with one value in each field of PRODUCT and each option, for every combination of them.

    Raises RequestError for an option without values, and for more combinations than anybody means.
    """
    fields = {name: values for name in PRODUCT if (values := getattr(request, name))}
    options = dict(_several(request.set or {}))
    _require_few(request, [*fields.values(), *options.values()])
    for chosen in itertools.product(*fields.values(), *options.values()):
        values = dict(zip([*fields, *options], chosen, strict=True))
        update: dict[str, Any] = {name: (values[name],) for name in fields}
        if options:
            update["set"] = _picked(request.set or {}, values)
        yield request.model_copy(update=update)


def _require_few(request: Request, lists: Sequence[Sequence[Any]]) -> None:
    combinations = math.prod(len(values) for values in (*lists, request.strategy or [""], request.gpus or [1]))
    if combinations > MOST_CELLS:
        said = f"the values asked for make {combinations} cells, and at most {MOST_CELLS} are allowed. Ask for fewer."
        raise RequestError((max(Axes.model_fields, key=lambda name: len(getattr(request, name) or ())),), said)


def _several(asked: Mapping[Any, Mapping[str, Any]]) -> Iterator[tuple[tuple[str, str], list[Any]]]:
    """The options that have a list of values, by section and name."""
    for section, options in asked.items():
        for name, value in options.items():
            if value == []:
                raise RequestError(("set", section, name), "expected a value, or a list of several.")
            if isinstance(value, list):
                yield (section, name), value


def _picked(asked: Mapping[Any, Mapping[str, Any]], values: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    return {
        section: {name: values.get((section, name), value) for name, value in options.items()}
        for section, options in asked.items()
    }


def matches(asked: Axes, spec: RunSpec, machine: Machine) -> bool:
    """Whether `spec` has one of the values asked for in every field that asks for any, and in every option."""
    fields = {name: values for name in Axes.model_fields if name != "set" and (values := getattr(asked, name))}
    return all(_value(spec, name) in _meant(name, values, spec, machine) for name, values in fields.items()) and all(
        _options(spec, section).get(name, ...) in map(none_or, value if isinstance(value, list) else [value])
        for section, options in (asked.set or {}).items()
        for name, value in options.items()
    )


def _value(spec: RunSpec, name: str) -> object:
    if name == "optimizer":
        return spec.optimizer.name
    if name == "learning_rate":
        return spec.optimizer.learning_rate
    return getattr(spec, NAMED_OTHERWISE.get(name, name))


def _meant(name: str, values: tuple[Any, ...], spec: RunSpec, machine: Machine) -> tuple[Any, ...]:
    """`values` as specs have them."""
    if name == "gpus":
        return tuple(ranks_meant(values, machine))
    if name == "data":
        reads = dict.fromkeys([*workloads.reads(spec.workload), *data.KINDS])  # of other workloads' data it is none
        return tuple(data_name(value, tuple(reads)) for value in values)
    if name == "init_from":
        return tuple(map(checkpoint_name, values))
    return tuple(map(none_or, values)) if name in ("clip_norm", "ema_decay") else values


def data_name(asked: str, reads: Sequence[str]) -> str:
    """The data's name as a spec stores it. Raises RequestError for data that are not there or not of these kinds."""
    try:
        return data.resolve_name(asked, reads)
    except UserError as error:
        raise RequestError(("data",), str(error)) from None


def checkpoint_name(asked: str | None) -> str | None:
    """The checkpoint's name as a spec stores it. Raises RequestError for one that is not there."""
    try:
        return None if none_or(asked) is None else resolve_checkpoint(str(asked))
    except UserError as error:
        raise RequestError(("init_from",), str(error)) from None


def none_or(value: Any) -> Any:
    """`value`, or None for the word `none`."""
    return None if value == "none" else value


def _options(spec: RunSpec, section: str) -> Mapping[str, object]:
    return spec.strategy_options if section == "strategy" else spec.workload_options
