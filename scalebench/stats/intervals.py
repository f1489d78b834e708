"""Confidence intervals for figures whose unit of replication is a fresh process.

Step times, throughputs and their ratios are positive and their spread is proportional to their size, so everything is
estimated on logarithms: a mean is a geometric mean and an interval is symmetric as a factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
USELESS_WIDTH = 10.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure, its confidence interval (None when the data support none) and the processes behind it.

    `within_run` marks an interval that knows only the spread inside one process: it says how well this run's figure is
    known, never how the next run will do, and supports no comparison.
    """

    value: float
    low: float | None = None
    high: float | None = None
    processes: int
    within_run: bool = False

    @property
    def bounded(self) -> bool:
        """Whether there is an interval that says anything: less than `USELESS_WIDTH`-fold from end to end."""
        return self.low is not None and self.high is not None and self.high < USELESS_WIDTH * self.low

    def scaled(self, factor: float) -> Estimate:
        """The estimate in another unit, or per rank: everything times `factor` (> 0)."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return Estimate(
            value=self.value * factor, low=low, high=high, processes=self.processes, within_run=self.within_run
        )


def mean(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Arithmetic mean of one value per process, with Student's t interval. One process gives no interval.

    Source: Student (1908), with n-1 degrees of freedom.
    """
    found = np.asarray(values, dtype=float)
    middle, n = float(found.mean()), len(found)
    if n < 2:
        return Estimate(value=middle, processes=n)
    half = float(_t_quantile(confidence, n - 1) * found.std(ddof=1) / math.sqrt(n))
    return Estimate(value=middle, low=middle - half, high=middle + half, processes=n)


def geometric_mean(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Geometric mean of one positive value per process, with Student's t interval of the mean of their logarithms.

    Source: Student (1908), with n-1 degrees of freedom. One process gives no interval.
    """
    logs = np.log(np.asarray(values, dtype=float))
    n = len(logs)
    if n < 2:
        return Estimate(value=float(values[0]), processes=n)
    half = _t_quantile(confidence, n - 1) * logs.std(ddof=1) / math.sqrt(n)
    return _from_logs(logs.mean(), half, n)


def geometric_ratio(
    numerator: Sequence[float], denominator: Sequence[float], confidence: float = CONFIDENCE
) -> Estimate:
    """Ratio of two cells' geometric means, with Welch's t interval of the difference of the means of logarithms.

    Source: Welch (1947), degrees of freedom of Satterthwaite (1946): the cells may differ in spread and in processes.
    `processes` is the smaller of the two numbers; when it is 1 there is no interval.
    """
    top, bottom = (np.log(np.asarray(values, dtype=float)) for values in (numerator, denominator))
    difference, fewest = top.mean() - bottom.mean(), min(len(top), len(bottom))
    if fewest < 2:
        return Estimate(value=math.exp(difference), processes=fewest)
    squared = [cell.var(ddof=1) / len(cell) for cell in (top, bottom)]
    total = sum(squared)
    if total == 0.0:
        return _from_logs(difference, 0.0, fewest)
    freedom = total**2 / sum(s**2 / (len(cell) - 1) for s, cell in zip(squared, (top, bottom), strict=True))
    return _from_logs(difference, _t_quantile(confidence, freedom) * math.sqrt(total), fewest)


def _t_quantile(confidence: float, freedom: float) -> float:
    """Two-sided: the t below which a share of (1 + confidence) / 2 lies."""
    return float(stats.t.ppf((1 + confidence) / 2, freedom))


def _from_logs(mean: float, half: float, processes: int) -> Estimate:
    return Estimate(value=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half), processes=processes)
