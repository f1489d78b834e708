"""What ranks tell each other off the clock, as Python objects over the CPU's process group."""

from __future__ import annotations

from collections.abc import Sequence
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


def mean_of_all(values: Sequence[float]) -> float:
    """The mean over all ranks' values, of which each has as many. Collective."""
    mean = torch.tensor(values, dtype=torch.float64).mean()
    if dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean.item()


def of_first(value: Value) -> Value:
    """Rank 0's `value`. Collective."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]
