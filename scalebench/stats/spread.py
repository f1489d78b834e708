"""The median of a few repeats made on several ranks at once, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median, least and largest of a number of repeats."""

    median: float
    low: float
    high: float

    def rate(self, amount: float) -> Spread:
        """As `amount` per second, from seconds: the longest time is the lowest rate."""
        return Spread(median=amount / self.median, low=amount / self.high, high=amount / self.low)


def of_slowest(seconds: Sequence[Sequence[float]]) -> Spread:
    """Over repeats, of the slowest rank's time in each: a job waits for it. `seconds` has shape (ranks, repeats)."""
    slowest = np.asarray(seconds, dtype=float).max(axis=0)
    return Spread(median=float(np.median(slowest)), low=float(slowest.min()), high=float(slowest.max()))
