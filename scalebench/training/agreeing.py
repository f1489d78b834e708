"""What ranks tell each other off the clock, as Python objects over the CPU's process group."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")


def of_all(value: Value) -> list[Value]:
    """Every rank's `value`, by rank. Collective."""
    if not dist.is_initialized():
        return [value]
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def of_first(value: Value) -> Value:
    """Rank 0's `value`. Collective."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]
