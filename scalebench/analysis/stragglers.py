"""Which rank the others wait for: from what each rank did itself, since collectives make the ends of their steps equal.

On a CPU that is the time in which its main thread ran or wanted to run, over the whole window; on a GPU a profiled step
but for the time in which the rank did nothing but wait in collectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalebench.records.record import RankFacts, Record

from .steps import NANOSECONDS, timed_steps, window


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Seconds per step that each rank worked itself, by rank."""

    seconds: Sequence[float]

    @property
    def slowest(self) -> int:
        """The rank that worked longest."""
        return int(np.argmax(self.seconds))

    @property
    def others(self) -> float:
        """What the other ranks worked, their mean."""
        return float(np.mean(np.delete(self.seconds, self.slowest)))

    @property
    def waited(self) -> float:
        """Seconds per step for which the others, on average, waited for the slowest."""
        return self.seconds[self.slowest] - self.others


def spread(record: Record) -> Spread | None:
    """None for one rank, for a run without a window, and where some rank's work is not known."""
    measured = window(record)
    if measured is None or len(record.ranks) < 2:
        return None
    work = [_own_work(record, rank, measured.whole_steps) for rank in record.ranks]
    known = [seconds for seconds in work if seconds is not None]
    return Spread(seconds=known) if len(known) == len(work) else None


def data_wait(record: Record) -> list[float] | None:
    """Seconds per step that each rank waited for its next batch, by rank; None when not recorded."""
    timed = timed_steps(record)
    if timed is None or not all(rank.data_wait_ns for rank in record.ranks):
        return None
    return [float(np.array(rank.data_wait_ns)[timed].mean()) * NANOSECONDS for rank in record.ranks]


def _own_work(record: Record, rank: RankFacts, steps: int) -> float | None:
    if record.spec.device == "cpu" and rank.main_thread_seconds is not None and rank.cpu_wait_seconds is not None:
        return (rank.main_thread_seconds + rank.cpu_wait_seconds) / steps
    facts = rank.communication
    if facts is None or facts.step_seconds is None or facts.exposed_seconds is None:
        return None
    return facts.step_seconds - facts.exposed_seconds
