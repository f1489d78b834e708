"""What successive step times of one run say: how long they remember, how well their median is known, if they drift.

Steps of one process are not independent: a slow one is followed by slow ones. So everything here is estimated from
`BATCHES` successive batches, each long enough to have forgotten the one before it (docs/steady-state.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from .intervals import CONFIDENCE, Estimate

BATCHES = 10
"""Few and long: more than 10 to 30 gain little, and only long ones are independent (Schmeiser, Oper. Res. 30, 1982)."""
LEAST_STEPS = 4 * BATCHES
LEAST_MEMORIES = 30.0
"""Autocorrelation times that a series must have at least; in fewer, that time itself is badly known."""
DRIFT_LEVEL = 0.01
LEAST_DRIFT = 0.01
"""A change of the median over the window that is smaller than this share of it matters to nobody."""
_SOKAL_WINDOW = 5.0

Series = Sequence[float] | npt.NDArray[np.float64]


def median_interval(durations: Series, confidence: float = CONFIDENCE) -> Estimate:
    """Median of one run's successive durations, with an interval that respects their autocorrelation.

    The share of steps above the median is a mean, whose standard error the spread of its batch means gives; the
    interval's ends are the quantiles that lie a Student's t half-width of that share below and above 1/2 (Woodruff,
    JASA 47, 1952, over batch means). Being about shares, it holds for any distribution, however heavy its tail.
    Fewer than `LEAST_STEPS` durations give no interval.
    """
    ordered = np.sort(np.asarray(durations, dtype=float))
    n, median = len(ordered), float(np.median(ordered))
    if n < LEAST_STEPS:
        return Estimate(value=median, processes=1, within_run=True)
    shares = _batches(_above(durations, median)).mean(axis=1)
    t = float(stats.t.ppf((1 + confidence) / 2, BATCHES - 1))
    half = t * float(shares.std(ddof=1)) / math.sqrt(BATCHES)
    low, high = max(0, math.floor(n * (0.5 - half)) - 1), min(n - 1, math.ceil(n * (0.5 + half)))
    return Estimate(value=median, low=float(ordered[low]), high=float(ordered[high]), processes=1, within_run=True)


def half_width(median: Estimate) -> float | None:
    """Half the interval over the median: what a target precision is compared with. None without an interval."""
    if median.low is None or median.high is None or median.value <= 0:
        return None
    return (median.high - median.low) / 2 / median.value


def autocorrelation_time(durations: Series) -> float:
    """Integrated autocorrelation time in steps: 1 + 2 x the sum of all autocorrelations.

    n steps know as much as n divided by it independent ones would.

    Of the ranks of the durations, so that no outlier hides the memory of the others (Vehtari et al., Bayesian Analysis
    16, 2021), summed up to the first lag that exceeds `_SOKAL_WINDOW` times the (one-sided) time found so far (Sokal,
    Monte Carlo Methods in Statistical Mechanics, 1997). At least 1: what makes steps alternate earns no precision.
    """
    ranks = stats.rankdata(durations)
    centred = ranks - ranks.mean()
    n = len(centred)
    spectrum = np.fft.rfft(centred, 1 << (2 * n - 1).bit_length())
    covariance = np.fft.irfft(spectrum * spectrum.conj())[:n]
    if n < 2 or covariance[0] <= 0:
        return 1.0
    times = 2 * np.cumsum(covariance / covariance[0]) - 1
    enough = np.arange(n) >= _SOKAL_WINDOW * times / 2
    return max(1.0, float(times[np.argmax(enough)] if enough.any() else times[-1]))


def too_short(durations: Series) -> bool:
    """Whether the series is too short for its own memory, so that its interval cannot be trusted."""
    n = len(durations)
    return n < LEAST_STEPS or n < LEAST_MEMORIES * autocorrelation_time(durations)


def drift(durations: Series) -> float | None:
    """Change of the median from the window's beginning to its end, relative to it; None when none is shown.

    Shown is a slope of the batch medians over time that a t test finds at `DRIFT_LEVEL` and that adds up to at least
    `LEAST_DRIFT`.
    """
    if len(durations) < LEAST_STEPS:
        return None
    medians = np.median(_batches(np.asarray(durations, dtype=float)), axis=1)
    line = stats.linregress(np.arange(BATCHES), medians)
    change = float(line.slope) * BATCHES / float(np.median(medians))
    return change if line.pvalue < DRIFT_LEVEL and abs(change) >= LEAST_DRIFT else None


def _above(durations: Series, median: float) -> npt.NDArray[np.float64]:
    """1 for a step slower than the median, 0 for a faster one, 1/2 for one that equals it."""
    series = np.asarray(durations, dtype=float)
    return np.heaviside(series - median, 0.5)


def _batches(series: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`series` cut into successive batches, shape (BATCHES, length); what does not fill them is left out in front."""
    length = len(series) // BATCHES
    return series[len(series) - BATCHES * length :].reshape(BATCHES, length)
