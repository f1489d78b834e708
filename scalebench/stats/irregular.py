"""What else is odd about the step times of one run: stalls, whether these are periodic, and two typical times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from .within_run import LEAST_STEPS, Series

STALL_DEVIATIONS = 6.0
LEAST_STALL = 0.1
"""A stall exceeds the median by this share of it at least, and by `STALL_DEVIATIONS` robust standard deviations."""
LEAST_STALLS = 5
"""Fewer do not show a period."""
REGULAR = 0.8
"""Share of the intervals between stalls that must be the same, to within a step, for them to be called periodic."""
LEAST_FOR_MODES = 2 * LEAST_STEPS
"""In fewer steps a second peak is a handful of them."""
LEAST_MODE = 0.1
"""Share of the steps that a second typical time must have."""
LEAST_SEPARATION = 0.03
DEEPEST_VALLEY = 0.5
"""The density between two modes is at most this share of the lower one's."""
SHARPENED = 0.6
_GRID = 256


@dataclass(frozen=True, kw_only=True)
class Stalls:
    """Steps far slower than the rest.

    Attributes:
        count: how many. lost: share of the whole time that they took beyond the median.
        period: steps from one to the next when that is always the same; None when it is not.
    """

    count: int
    lost: float
    period: int | None


@dataclass(frozen=True, kw_only=True)
class Modes:
    """Two typical step times in seconds, and the share of the steps around the slow one."""

    fast: float
    slow: float
    share_slow: float


def stalls(durations: Series) -> Stalls | None:
    """The steps that are far slower than the median; None when there are none.

    None also when they are many and not periodic: then they are a second typical time.
    """
    series = np.asarray(durations, dtype=float)
    where = np.flatnonzero(_stalled(series))
    period = _period(where)
    if not len(where) or (period is None and len(where) > LEAST_MODE * len(series)):
        return None
    lost = float((series[where] - np.median(series)).sum() / series.sum())
    return Stalls(count=len(where), lost=lost, period=period)


def two_modes(durations: Series) -> Modes | None:
    """Two typical times: two peaks of a kernel density with a deep valley between them; None when there is one.

    Silverman's bandwidth (1986), which suits one normal peak and flattens two, times `SHARPENED`.
    """
    series = np.asarray(durations, dtype=float)
    stalled = _stalled(series)
    series = series[~stalled] if stalled.mean() <= LEAST_MODE else series
    if len(series) < LEAST_FOR_MODES or np.ptp(series) < LEAST_SEPARATION * np.median(series):
        return None
    grid = np.linspace(series.min(), series.max(), _GRID)
    density = stats.gaussian_kde(series, lambda kernel: SHARPENED * kernel.silverman_factor())(grid)
    peaks = _peaks(density)
    if len(peaks) < 2:
        return None
    first, second = sorted(sorted(peaks, key=lambda peak: density[peak])[-2:])
    valley = first + int(np.argmin(density[first:second]))
    share = float(np.mean(series > grid[valley]))
    deep = density[valley] <= DEEPEST_VALLEY * min(density[first], density[second])
    apart = grid[second] - grid[first] >= LEAST_SEPARATION * np.median(series)
    if not (deep and apart and LEAST_MODE <= share <= 1 - LEAST_MODE):
        return None
    return Modes(fast=float(grid[first]), slow=float(grid[second]), share_slow=share)


def _peaks(density: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Where `density` is larger than on both sides; the ends may be peaks."""
    padded = np.concatenate([[0.0], density, [0.0]])
    return np.flatnonzero((density > padded[:-2]) & (density >= padded[2:]))


def _stalled(series: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    median = np.median(series)
    deviation = 1.4826 * np.median(np.abs(series - median))
    stalled: npt.NDArray[np.bool_] = series > median + max(STALL_DEVIATIONS * deviation, LEAST_STALL * median)
    return stalled


def _period(where: npt.NDArray[np.intp]) -> int | None:
    """The interval that all but a few of the intervals between steps `where` are."""
    intervals = np.diff(where)
    if len(where) < LEAST_STALLS:
        return None
    period = float(np.median(intervals))
    regular = np.mean(np.abs(intervals - period) <= 1)
    return round(period) if period > LEAST_STALLS and regular >= REGULAR else None
