"""The models to train. Names, sizes and options are checked here without importing torch; `create` imports it.

Usage: `workloads.create("gpt", "124m", {"dropout": 0.1})`.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scalebench.errors import UserError, unknown_name
from scalebench.workloads import gpt_config

if TYPE_CHECKING:
    from scalebench.workloads.base import Workload

Scalar = bool | int | float | str | None
Config = gpt_config.GPTConfig


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family: where its Workload class is (`module:Class`, called with size and config), and its sizes.

    `depth` is the option that says how many equal blocks a model has.
    """

    target: str
    sizes: Mapping[str, Config]
    default_micro_batch: Mapping[str, int]
    depth: str
    summary: str


@dataclass(frozen=True, kw_only=True)
class SizeInfo:
    """One row of `scalebench list`."""

    workload: str
    size: str
    parameters: int
    default_micro_batch: int
    options: Mapping[str, Scalar]


FAMILIES: dict[str, Family] = {
    "gpt": Family(
        target="scalebench.workloads.gpt:GPTWorkload",
        sizes=gpt_config.SIZES,
        default_micro_batch=gpt_config.DEFAULT_MICRO_BATCH,
        depth="num_layers",
        summary="decoder-only language model of the GPT-2/3 family, next-token cross-entropy",
    )
}


def create(name: str, size: str, options: Mapping[str, Scalar] | None = None) -> Workload:
    """The workload `name` at `size` with `options` changed. Raises UserError for an unknown name, size or option."""
    config = resolve_config(name, size, options or {})
    module_name, _, class_name = _family(name).target.partition(":")
    return getattr(importlib.import_module(module_name), class_name)(size, config)  # type: ignore[no-any-return]


def resolve_options(name: str, size: str, options: Mapping[str, Scalar] | None = None) -> dict[str, Scalar]:
    """Every option of the workload with its value: the size's, changed by `options`. Raises UserError as `create`."""
    return dataclasses.asdict(resolve_config(name, size, options or {}))


def resolve_config(name: str, size: str, options: Mapping[str, Scalar]) -> Config:
    """The shape behind `size`, changed by `options` after checking their names and types."""
    base = _sized(name, size)
    return dataclasses.replace(base, **{key: _checked(base, key, value) for key, value in options.items()})


def size_names(name: str) -> list[str]:
    """The sizes of workload `name`, smallest first."""
    return list(_family(name).sizes)


def depth_option(name: str) -> str:
    """The option of workload `name` that makes its sizes deeper."""
    return _family(name).depth


def default_micro_batch(name: str, size: str) -> int:
    """Samples per rank and forward pass when none are asked for."""
    _sized(name, size)
    return _family(name).default_micro_batch[size]


def describe() -> Iterator[SizeInfo]:
    """Every workload at every size."""
    for name, family in FAMILIES.items():
        for size, config in family.sizes.items():
            yield SizeInfo(
                workload=name,
                size=size,
                parameters=config.parameter_count,
                default_micro_batch=family.default_micro_batch[size],
                options=dataclasses.asdict(config),
            )


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise unknown_name("workload", name, FAMILIES)
    return FAMILIES[name]


def _sized(name: str, size: str) -> Config:
    sizes = _family(name).sizes
    if size not in sizes:
        raise unknown_name(f"size of {name}", size, sizes)
    return sizes[size]


def _checked(base: Config, name: str, value: Scalar) -> Any:
    """`value` in the type of option `name`, whose type is that of the size's own value."""
    defaults = dataclasses.asdict(base)
    if name not in defaults:
        raise unknown_name("option of the workload", name, defaults)
    kind = type(defaults[name])
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (kind is float and isinstance(value, float) and math.isfinite(value))):
        wanted = "a whole number" if kind is int else "a number"
        raise UserError(f"workload.{name} is {value!r}; give {wanted}, e.g. --set workload.{name}={defaults[name]}.")
    return kind(value)
