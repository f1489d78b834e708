"""Whether a row of steps is steady: the end of warm-up, told from the steps themselves (docs/steady-state.md)."""

from __future__ import annotations

import math

import numpy as np

from .within_run import Series, autocorrelation_time, drift

SETTLED_ERRORS = 2.5
"""Standard errors by which the median of the steps before the window may differ from the window's."""
LEAST_SHIFT = 0.005
"""A difference smaller than this share of the median is not looked for."""


def settled(before: Series, window: Series) -> bool:
    """Whether the steps `before` a window were already like those in it, and those in it do not drift.

    Windows are made to begin long after the first of `before` (see scalebench.stats.pacing), so that what of a warm-up
    is too small to be seen there has decayed where they begin.
    """
    return drift(window) is None and not unlike(before, window)


def unlike(before: Series, window: Series) -> bool:
    """Whether the steps `before` a window differ from those in it; empty ones do not.

    They do when their median lies outside the window's quantiles between which the median of so few of its steps would
    (Woodruff, JASA 47, 1952), and more than `LEAST_SHIFT` from the window's median.
    """
    if not len(before) or not len(window):
        return False
    found, median = float(np.median(before)), float(np.median(window))
    memory = autocorrelation_time(window)
    error = 0.5 * math.sqrt(sum(min(1.0, memory / steps) for steps in (len(before), len(window))))
    low, high = np.quantile(window, np.clip([0.5 - SETTLED_ERRORS * error, 0.5 + SETTLED_ERRORS * error], 0, 1))
    return not low <= found <= high and abs(found - median) > LEAST_SHIFT * median
