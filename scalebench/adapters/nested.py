"""Batches of any shape as the flat ones that strategies know, name to tensor, and back.

The names say the shape: `0` and `1/mask` are the parts of a tuple whose second member is a dict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from scalebench.errors import UserError
from scalebench.strategies.base import Batch

SEPARATOR = "/"
ALONE = "batch"
"""The name of a batch that is one tensor."""


def flatten(batch: Any) -> dict[str, Tensor]:
    """Every tensor in `batch` by its place. Raises UserError for anything that is no tensor."""
    return dict(_leaves(batch, ""))


def unflatten(batch: Batch) -> Any:
    """What `flatten` was given: dicts as dicts, tuples and lists as tuples."""
    if list(batch) == [ALONE]:
        return batch[ALONE]
    tree: dict[str, Any] = {}
    for name, tensor in batch.items():
        *path, last = name.split(SEPARATOR)
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = tensor
    return _shaped(tree)


def cast(value: Any, dtype: torch.dtype) -> Any:
    """`value` with the floating-point tensors in it, and in its dicts, tuples and lists, in `dtype`."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) is dict:
        return {name: cast(inner, dtype) for name, inner in value.items()}
    return type(value)(cast(inner, dtype) for inner in value) if type(value) in (tuple, list) else value


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place or ALONE, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str) or SEPARATOR in key or key.isdigit() or key == ALONE:
                raise UserError(f"the batch has the key {key!r}; keys are names, other than numbers and '{ALONE}'.")
            yield from _leaves(inner, _joined(place, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _leaves(inner, _joined(place, str(index)))
    else:
        raise UserError(
            f"the batch holds a value of type {type(value).__name__} at {place or 'its top'}; only tensors can be "
            "trained on. Leave it out of the samples, or give a collate_fn that does."
        )


def _joined(place: str, key: str) -> str:
    return f"{place}{SEPARATOR}{key}" if place else key


def _shaped(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    values = [_shaped(value) for value in tree.values()]
    return tuple(values) if next(iter(tree), "").isdigit() else dict(zip(tree, values, strict=True))
