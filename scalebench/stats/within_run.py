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
LEAST_MEMORIES = 28.0
"""Autocorrelation times that a series must have at least; in fewer, that time itself is badly known."""
DRIFT_LEVEL = 0.005
LEAST_DRIFT = 0.01
"""A change of the median over the window that is smaller than this share of it matters to nobody."""

Series = Sequence[float] | npt.NDArray[np.float64]


def median_interval(durations: Series, confidence: float = CONFIDENCE) -> Estimate:
    """Median of one run's successive durations, with an interval that respects their autocorrelation.

    The interval's ends are the quantiles that lie as far below and above 1/2 as the share of steps above the median is
    uncertain (Woodruff, JASA 47, 1952). Being about shares, it holds for any distribution, however heavy its tail.
    Fewer than `LEAST_STEPS` durations give no interval.
    """
    ordered = np.sort(np.asarray(durations, dtype=float))
    n, median = len(ordered), float(np.median(ordered))
    if n < LEAST_STEPS:
        return Estimate(value=median, processes=1, within_run=True)
    half = _uncertain_share(durations, median, confidence)
    low, high = max(0, math.floor(n * (0.5 - half)) - 1), min(n - 1, math.ceil(n * (0.5 + half)))
    return Estimate(value=median, low=float(ordered[low]), high=float(ordered[high]), processes=1, within_run=True)


def _uncertain_share(durations: Series, median: float, confidence: float) -> float:
    """Half the width of the interval of the share of steps above the median: the larger of two.

    Batch means are honest about any kind of dependence, but 10 of them are few, and too alike while a batch is short of
    the series' memory. The effective number of steps is steadier, but known through one figure, that memory.
    """
    above = _above(durations, median)
    t, z = stats.t.ppf((1 + confidence) / 2, BATCHES - 1), stats.norm.ppf((1 + confidence) / 2)
    of_batches = t * _batches(above).mean(axis=1).std(ddof=1) / math.sqrt(BATCHES)
    of_memory = z * 0.5 * math.sqrt(autocorrelation_time(durations) / len(above))
    return float(max(of_batches, of_memory))


def half_width(median: Estimate) -> float | None:
    """Half the interval over the median: what a target precision is compared with. None without an interval."""
    if median.low is None or median.high is None or median.value <= 0:
        return None
    return (median.high - median.low) / 2 / median.value


def autocorrelation_time(durations: Series) -> float:
    """Integrated autocorrelation time in steps: 1 + 2 x the sum of all autocorrelations.

    n steps know as much as n divided by it independent ones would.

    Of the ranks of the durations, so that no outlier hides the memory of the others (Vehtari et al., Bayesian Analysis
    16, 2021), from the autoregressive process that fits them best: Yule-Walker's equations by Levinson's recursion,
    the order by Akaike's criterion (Thompson, A comparison of methods for computing autocorrelation time, 2010, found
    none better). At least 1, since what makes steps alternate earns no precision, and at most the number of steps.
    """
    covariance, n = _covariance_of_ranks(durations), len(durations)
    if n < 2 or covariance[0] <= 0:
        return 1.0
    innovation, weights, time, best = covariance[0], np.zeros(0), 1.0, n * math.log(covariance[0])
    for order in range(1, len(covariance)):
        reflection = (covariance[order] - weights @ covariance[order - 1 : 0 : -1]) / innovation
        weights = np.append(weights - reflection * weights[::-1], reflection)
        innovation *= 1 - reflection**2
        criterion = n * math.log(innovation) + 2 * order
        if criterion < best:
            best, time = criterion, innovation / covariance[0] / (1 - weights.sum()) ** 2
    return min(max(1.0, float(time)), float(n))


def _covariance_of_ranks(durations: Series) -> npt.NDArray[np.float64]:
    """Autocovariances of the ranks at lags 0 to 10 log10 n (the usual longest order), at most a quarter of them."""
    ranks = stats.rankdata(durations)
    centred, n = ranks - ranks.mean(), len(ranks)
    lags = 1 + min(n // 4, int(10 * math.log10(max(n, 1))))
    spectrum = np.fft.rfft(centred, 1 << (2 * n - 1).bit_length())
    covariance: npt.NDArray[np.float64] = np.fft.irfft(spectrum * spectrum.conj())[:lags] / n
    return covariance


def too_short(durations: Series) -> bool:
    """Whether the series is too short for its own memory, so that its interval cannot be trusted."""
    n = len(durations)
    return n < LEAST_STEPS or n < LEAST_MEMORIES * autocorrelation_time(durations)


def drift(durations: Series) -> float | None:
    """Change of the median from the window's beginning to its end, relative to it; None when none is shown.

    The change is the slope over time of the batch medians. It is shown when a trend of the steps' ranks is, and when it
    adds up to at least `LEAST_DRIFT`.
    """
    if len(durations) < LEAST_STEPS or not _trend_is_shown(durations):
        return None
    medians = np.median(_batches(np.asarray(durations, dtype=float)), axis=1)
    slope = float(stats.linregress(np.arange(BATCHES), medians).slope)
    change = slope * BATCHES / float(np.median(medians))
    return change if abs(change) >= LEAST_DRIFT else None


def _trend_is_shown(durations: Series) -> bool:
    """Spearman's test of ranks against time at `DRIFT_LEVEL`, with as many degrees of freedom as the steps are worth.

    n steps are worth n over the autocorrelation time of what the trend leaves (Yue and Wang, Water Resources Management
    18, 2004, for the test of Mann and Kendall).
    """
    ranks, time = stats.rankdata(durations), np.arange(len(durations))
    trend = stats.linregress(time, ranks)
    freedom = len(ranks) / autocorrelation_time(ranks - trend.slope * time) - 2
    if freedom <= 0 or trend.rvalue == 0:
        return False
    t = abs(trend.rvalue) * math.sqrt(freedom / max(1 - trend.rvalue**2, 1e-12))
    return bool(2 * stats.t.sf(t, freedom) < DRIFT_LEVEL)


def _above(durations: Series, median: float) -> npt.NDArray[np.float64]:
    """1 for a step slower than the median, 0 for a faster one, 1/2 for one that equals it."""
    series = np.asarray(durations, dtype=float)
    return np.heaviside(series - median, 0.5)


def _batches(series: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`series` cut into successive batches, shape (BATCHES, length); what does not fill them is left out in front."""
    length = len(series) // BATCHES
    return series[len(series) - BATCHES * length :].reshape(BATCHES, length)
