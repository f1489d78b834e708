"""Whether the loader keeps up with the steps, and how many workers it would need to."""

from __future__ import annotations

from dataclasses import dataclass

from scalebench.records.loading import STALLED
from scalebench.records.record import Record

from .steps import data_wait_share, timed_steps, window

RESERVE = 1.1
"""How much faster than the steps a loader must be for its workers to stay ahead in spite of jitter."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """One run's loader.

    Attributes:
        wait_share: share of the window that a rank waited for data, mean over ranks.
        needed: steps per second that the loader must give so that no step waits: the steps without their waits.
        rates: workers to steps per second of the loader alone, of the slowest rank.
        workers: the fewest workers measured that give `RESERVE` times what is needed; None when none do. The run's own
            number when its steps hardly wait.
    """

    wait_share: float
    needed: float
    rates: dict[int, float]
    workers: int | None

    @property
    def stalled(self) -> bool:
        """Whether steps wait noticeably."""
        return self.wait_share >= STALLED


def loading(record: Record) -> Loading | None:
    """None for a run without a window or without measured rates."""
    measured, timed, share = window(record), timed_steps(record), data_wait_share(record)
    rates = loader_rates(record)
    if measured is None or timed is None or share is None or not rates or share >= 1:
        return None
    needed = float(timed.sum()) / (measured.wall_seconds * (1 - share))
    enough = [workers for workers, rate in rates.items() if workers and rate >= RESERVE * needed]
    workers = record.spec.num_workers if share < STALLED else min(enough, default=None)
    return Loading(wait_share=share, needed=needed, rates=rates, workers=workers)


def loader_rates(record: Record) -> dict[int, float]:
    """Workers to steps per second of the loader alone, of the slowest rank; those that every rank measured."""
    ranks = [{each.num_workers: each.steps / each.seconds for each in rank.loader_rates} for rank in record.ranks]
    common = set.intersection(*(set(rates) for rates in ranks)) if ranks else set()
    return {workers: min(rates[workers] for rates in ranks) for workers in sorted(common)}
