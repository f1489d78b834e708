"""Whether a row of steps is steady: the end of warm-up, told from the steps themselves (docs/steady-state.md)."""

from __future__ import annotations

import math

import numpy as np

from .within_run import Series, autocorrelation_time, drift

SETTLED_ERRORS = 3.0
"""Standard errors by which the median of the steps before the window may differ from the window's."""
LEAST_SHIFT = 0.005
"""A difference smaller than this share of the median is not looked for."""


def settled(before: Series, window: Series) -> bool:
    """Whether the steps `before` a window were already like those in it, and those in it do not drift.

    They differ when their medians are further apart than `LEAST_SHIFT` and than `SETTLED_ERRORS` standard errors of the
    medians of two correlated normal series. Windows are made to begin long after the first of `before` (see
    scalebench.stats.pacing), so that what of a warm-up is too small to be seen there has decayed where they begin.
    """
    if drift(window) is not None:
        return False
    if not len(before) or not len(window):
        return True
    median = float(np.median(window))
    shift = abs(float(np.median(before)) - median)
    return shift <= max(LEAST_SHIFT * median, SETTLED_ERRORS * _error_of_shift(len(before), window))


def _error_of_shift(before: int, window: Series) -> float:
    """Standard error of the difference between the medians of `before` steps and of the window, by its spread."""
    deviation = 1.4826 * float(np.median(np.abs(np.asarray(window) - np.median(window))))
    memory = autocorrelation_time(window)
    return deviation * math.sqrt(math.pi / 2 * sum(min(1.0, memory / steps) for steps in (before, len(window))))
