"""How far two sides lie apart: the difference of their mean logarithms, how well it is known, and what would make it
known better.

A side is a version of a program; its figures are one positive number per fresh process. Two sides that were measured in
turn are compared pair by pair. Sides of different sessions are compared session by session: whatever was different on
the machine that day is in the difference too, and only other sessions tell how much that may be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

TRIMMED = 0.1
LEAST_PAIRS = 2
LEAST_SESSIONS = 3
"""Of a baseline, before the spread between its sessions means anything."""
MOST_UNITS = 10_000
LEAST_FOR_MEMORY = 8
STRONGEST_MEMORY = 0.8
"""Of neighbouring pairs; a stronger one cannot be told from a drift in few of them."""

ROUNDING = 1e-9
"""Pairs that differ by less than this are all alike."""

Logs = Sequence[float] | npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean logarithm of the new side less that of the baseline, as Student's t knows it.

    Attributes:
        mean: the difference; its exponential is the ratio new / baseline.
        error: standard error of it, above 0. freedom: its degrees of freedom.
        units: what it was estimated from: pairs, or sessions (as many as each side would have, were they equally many).
    """

    mean: float
    error: float
    freedom: float
    units: float

    @property
    def ratio(self) -> float:
        """New over baseline, geometric."""
        return math.exp(self.mean)

    def interval(self, tail: float) -> tuple[float, float]:
        """Of the ratio; each end is wrong with the chance `tail`."""
        half = stats.t.isf(tail, self.freedom) * self.error
        return math.exp(self.mean - half), math.exp(self.mean + half)

    @property
    def p_above(self) -> float:
        """Chance of a difference at least as large if the new side is not above the baseline (one-sided)."""
        return float(stats.t.sf(self.mean / self.error, self.freedom))

    @property
    def p_below(self) -> float:
        """The same for a difference as small, if the new side is not below it."""
        return float(stats.t.cdf(self.mean / self.error, self.freedom))

    def power(self, effect: float, level: float) -> float:
        """Chance that a true ratio of 1 + `effect` is shown to be above 1 at `level`, by data of this spread.

        From the noncentral t distribution (Johnson and Welch, Biometrika 31, 1940).
        """
        shift = math.log1p(effect) / self.error
        return float(stats.nct.sf(stats.t.isf(level, self.freedom), self.freedom, shift))

    def of_units(self, units: float) -> Difference:
        """What is expected of so many units of the same spread."""
        share = self.units / units
        return replace(self, error=self.error * math.sqrt(share), freedom=self.freedom / share, units=units)

    def units_for(self, effect: float, level: float, power: float) -> int | None:
        """The fewest units with which `power` is reached; None when more than `MOST_UNITS` are needed."""
        few, many = 1, LEAST_PAIRS
        while self.of_units(many).power(effect, level) < power:
            few, many = many, 2 * many
            if many > MOST_UNITS:
                return None
        while many - few > 1:
            middle = (few + many) // 2
            enough = self.of_units(middle).power(effect, level) >= power
            few, many = (few, middle) if enough else (middle, many)
        return many


def of_pairs(differences: Logs, least_deviation: float) -> Difference:
    """From the differences of logarithms of pairs measured in turn, in the order they were measured.

    Their mean without the `TRIMMED` share at either end, and its error from the values with these ends drawn in
    (Tukey and McLaughlin, Sankhya A 25, 1963): what disturbs one run of many then neither moves the ratio nor hides a
    change. In fewer than ten pairs nothing is trimmed.

    Neighbouring pairs may be alike, so that n of them know as much as n (1 - r) / (1 + r) independent ones, with r
    their correlation at lag 1 (Zwiers and von Storch, Journal of Climate 8, 1995): half its standard error above its
    estimate, no less than 0, and not looked for in fewer than `LEAST_FOR_MEMORY`. The deviation counts as
    `least_deviation` where it came out smaller: few pairs may agree by chance better than the machine can repeat
    itself. Raises ValueError for fewer than `LEAST_PAIRS`.
    """
    logs = np.asarray(differences, dtype=float)
    n = len(logs)
    if n < LEAST_PAIRS:
        raise ValueError(f"a difference needs {LEAST_PAIRS} pairs")
    cut = int(TRIMMED * n)
    kept = np.sort(logs)[cut : n - cut]
    drawn_in = np.clip(logs, kept[0], kept[-1])
    deviation = float(drawn_in.std(ddof=1)) * n / len(kept)
    memory = _memory(drawn_in)
    worth = n * (1 - memory) / (1 + memory)
    error = max(deviation, least_deviation) / math.sqrt(worth)
    return Difference(mean=float(kept.mean()), error=error, freedom=len(kept) - 1, units=n)


def _memory(logs: npt.NDArray[np.float64]) -> float:
    """Correlation of neighbours, its bias of -(1 + 3r) / n taken back (Kendall, Biometrika 41, 1954), and some more.

    Half of its standard error, 1 / sqrt(n), is added: an estimate is as often too small as too large, and only the
    former raises false alarms.
    """
    n, centred = len(logs), logs - logs.mean()
    if n < LEAST_FOR_MEMORY or np.ptp(logs) < ROUNDING:
        return 0.0
    correlation = float(centred[1:] @ centred[:-1]) / float(centred @ centred)
    return min(max(0.0, correlation + (1 + 3 * correlation) / n + 0.5 / math.sqrt(n)), STRONGEST_MEMORY)


def of_sessions(base: Sequence[Logs], new: Sequence[Logs], least_deviation: float) -> Difference:
    """From sessions of which each measured one side only: the logarithms of its processes, by session.

    A session's mean is one figure. Their variance is that between the baseline's sessions, pooled with that between the
    new side's where it has several (Student's t of two samples of equal variance). A new session of fewer processes
    than the baseline's is known less well, by the variance within sessions. `least_deviation` is that of a pair, as in
    `of_pairs`. Raises ValueError for fewer than `LEAST_SESSIONS` of the baseline.
    """
    if len(base) < LEAST_SESSIONS:
        raise ValueError(f"a baseline needs {LEAST_SESSIONS} sessions")
    within = max(_within([*base, *new]), least_deviation**2 / 2)
    base_means, new_means = ([float(np.mean(session)) for session in side] for side in (base, new))
    between, freedom = _pooled_variance(base_means, new_means)
    between = max(between, within / _harmonic(base))
    fewer = max(0.0, within / _harmonic(new) - within / _harmonic(base))
    squared = between / len(base) + (between + fewer) / len(new)
    return Difference(
        mean=float(np.mean(new_means) - np.mean(base_means)),
        error=math.sqrt(squared),
        freedom=freedom,
        units=2 / (1 / len(base) + 1 / len(new)),
    )


def _pooled_variance(*sides: Sequence[float]) -> tuple[float, int]:
    """Variance of figures around their side's mean, and its degrees of freedom."""
    squares = sum(float(np.var(side)) * len(side) for side in sides)
    freedom = sum(len(side) - 1 for side in sides)
    return squares / freedom, freedom


def _within(sessions: Sequence[Logs]) -> float:
    """Variance of processes around their session's mean; 0 when no session has two."""
    several = [np.asarray(session, dtype=float) for session in sessions if len(session) > 1]
    freedom = sum(len(session) - 1 for session in several)
    return sum(float(session.var()) * len(session) for session in several) / freedom if freedom else 0.0


def _harmonic(sessions: Sequence[Logs]) -> float:
    """Harmonic mean of the numbers of processes."""
    return len(sessions) / sum(1 / len(session) for session in sessions)
