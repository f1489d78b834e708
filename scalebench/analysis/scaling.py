"""Speedup and efficiency against a baseline on one rank: `single` by default, or the strategy itself on one rank.

Weak scaling keeps each rank's batch, so efficiency is T1/TN; strong scaling keeps the global batch, so it is T1/(N TN).
In terms of throughput both are the speedup over N, since N ranks process N times the items in the former and as many in
the latter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .cells import BATCH_FIELDS, STRATEGY_FIELDS, Cell, Comparison, items_per_second, ratio

BASELINE = "single"
IS_BASELINE = "baseline"
"""The reason a baseline is not compared with itself."""


@dataclass(frozen=True, kw_only=True)
class ScalingFigures:
    """One cell against a baseline. `efficiency` is weak or strong, as the cell's `scaling` says."""

    speedup: Comparison
    ranks: int

    @property
    def efficiency(self) -> Comparison:
        """The speedup over the number of ranks."""
        estimate = self.speedup.estimate
        per_rank = estimate.scaled(1 / self.ranks) if estimate else None
        return Comparison(estimate=per_rank, reason=self.speedup.reason, caution=self.speedup.caution)


def against_single(cell: Cell, cells: Sequence[Cell]) -> ScalingFigures:
    """`cell` against plain PyTorch on one rank, everything else equal."""
    return _against(cell, [other for other in cells if other.spec.strategy == BASELINE], STRATEGY_FIELDS, BASELINE)


def against_itself(cell: Cell, cells: Sequence[Cell]) -> ScalingFigures:
    """`cell` against the same strategy on one rank, everything else equal: scaling without the wrapper's own cost."""
    return _against(cell, cells, set(), "the same strategy")


def _against(cell: Cell, others: Iterable[Cell], free: set[str], what: str) -> ScalingFigures:
    baseline = _baseline(cell, [other for other in others if other.spec.world_size == 1 and other.measured], free)
    if not cell.measured:
        comparison = Comparison(reason="not measured")
    elif baseline is None:
        comparison = Comparison(reason=f"{what} on 1 rank, with equal settings, threads and cores, was not measured")
    elif baseline is cell:
        comparison = Comparison(reason=IS_BASELINE)
    else:
        comparison = ratio(cell, baseline, items_per_second)
    return ScalingFigures(speedup=comparison, ranks=cell.spec.world_size)


def _baseline(cell: Cell, candidates: Iterable[Cell], free: set[str]) -> Cell | None:
    """The candidate of the same setting and load; of several, one of the same series, then of the same micro-batch."""
    ignored = free | BATCH_FIELDS | {"world_size", "scaling"}
    wanted, spec = cell.setting(ignored), cell.spec
    same = [
        other
        for other in candidates
        if other.setting(ignored) == wanted and _same_load(cell, other) and placement(other) == placement(cell)
    ]

    def distance(other: Cell) -> tuple[bool, bool, str]:
        return other.spec.scaling != spec.scaling, other.spec.micro_batch != spec.micro_batch, other.spec.cell_id

    return min(same, key=distance, default=None)


def _same_load(cell: Cell, baseline: Cell) -> bool:
    """Weak: an equal batch per rank. Strong: an equal global batch."""
    if cell.spec.scaling == "strong":
        return cell.spec.global_batch == baseline.spec.global_batch
    return all(getattr(cell.spec, name) == getattr(baseline.spec, name) for name in BATCH_FIELDS)


def placement(cell: Cell) -> set[tuple[int, int | None]]:
    """Threads and number of pinned cores of each rank on a CPU, as the processes saw them; empty on a GPU."""
    if cell.spec.device == "cuda":
        return set()
    pinned = cell.spec.cores_per_rank is not None
    return {
        (rank.threads, len(rank.affinity) if pinned and rank.affinity is not None else None)
        for record in cell.measured
        for rank in record.ranks
    }
