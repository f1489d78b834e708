"""What a framework (Lightning's Fabric, Accelerate) costs over the raw backend that it wraps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .cells import Cell, Comparison, items_per_second, ratio
from .memory import peak

SAME_BUT = {"strategy"}


@dataclass(frozen=True, kw_only=True)
class FrameworkCost:
    """Time per item over the raw backend's (above 1 is slower) and peak memory over its (above 1 is more)."""

    time_ratio: Comparison
    memory_ratio: Comparison


def framework_cost(cell: Cell, cells: Sequence[Cell], raw: str) -> FrameworkCost:
    """`cell` against the strategy `raw` with everything else equal, options too (a framework's strategy has none)."""
    wanted = cell.setting(SAME_BUT)
    for other in cells:
        if other.spec.strategy == raw and other.measured and other.setting(SAME_BUT) == wanted:
            return FrameworkCost(time_ratio=ratio(other, cell, items_per_second), memory_ratio=ratio(cell, other, peak))
    missing = Comparison(reason=f"{raw} was not measured in the same cell")
    return FrameworkCost(time_ratio=missing, memory_ratio=missing)
