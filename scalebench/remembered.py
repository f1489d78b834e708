"""What many ask of an object that never changes is computed once."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TypeVar

Owner = TypeVar("Owner")
Value = TypeVar("Value")


def remembered(value_of: Callable[[Owner], Value]) -> Callable[[Owner], Value]:
    """`value_of`, whose value is kept for as long as the very object lives that it was asked of.

    For frozen objects only. A copy with changed fields is another object, which a value kept in it would not know.
    """
    values: dict[int, tuple[weakref.ref[Owner], Value]] = {}

    @functools.wraps(value_of)
    def once(owner: Owner) -> Value:
        key = id(owner)
        if key not in values:
            value = value_of(owner)
            values[key] = weakref.ref(owner, lambda _: values.pop(key, None)), value
        return values[key][1]

    return once
