"""Where a step's time goes, from the steps that were taken apart right after the window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalebench.records.record import Record

from .steps import NANOSECONDS

PHASES = ("data", "forward", "backward", "optimizer")


@dataclass(frozen=True, kw_only=True)
class PhaseTime:
    """Seconds of one phase per step: the mean over steps and ranks, and over steps of the fastest and slowest rank."""

    mean: float
    fastest: float
    slowest: float
    slowest_rank: int


def phase_times(record: Record) -> dict[str, PhaseTime] | None:
    """Each phase's time; their means add up to the mean step. None when some rank's phases are not known."""
    ranks = [rank.phases for rank in record.ranks]
    if not ranks or None in ranks:
        return None
    return {
        phase: _phase_time([float(np.mean(getattr(facts, f"{phase}_ns"))) * NANOSECONDS for facts in ranks])
        for phase in PHASES
    }


def _phase_time(seconds: list[float]) -> PhaseTime:
    return PhaseTime(
        mean=float(np.mean(seconds)),
        fastest=min(seconds),
        slowest=max(seconds),
        slowest_rank=int(np.argmax(seconds)),
    )
