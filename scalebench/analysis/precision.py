"""What a 16-bit (or TF32) precision gains over fp32 in the very same cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .cells import PRECISION_FIELDS, Cell, Comparison, items_per_second, ratio
from .memory import peak


@dataclass(frozen=True, kw_only=True)
class PrecisionGain:
    """Throughput over fp32's (above 1 is faster) and peak memory over fp32's (below 1 is less)."""

    speedup: Comparison
    memory_ratio: Comparison


def precision_gain(cell: Cell, cells: Sequence[Cell]) -> PrecisionGain | None:
    """`cell` against fp32 with everything else equal; None for fp32 itself."""
    if cell.precision == "fp32":
        return None
    wanted = cell.setting(PRECISION_FIELDS)
    for other in cells:
        if other.precision == "fp32" and other.measured and other.setting(PRECISION_FIELDS) == wanted:
            return PrecisionGain(speedup=ratio(cell, other, items_per_second), memory_ratio=ratio(cell, other, peak))
    missing = Comparison(reason="fp32 of the same cell was not measured")
    return PrecisionGain(speedup=missing, memory_ratio=missing)
