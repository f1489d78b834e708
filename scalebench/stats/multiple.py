"""Several tests, or one test made several times, with one promise: the chance of any false claim stays at a level."""

from __future__ import annotations

import math
from collections.abc import Sequence


def holm_levels(p_values: Sequence[float], level: float) -> list[float]:
    """The level at which each of several hypotheses is tested; it is rejected where its p-value is no larger.

    Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979): the smallest p-value is tested at
    level / m, the next at level / (m - 1), and so on until one is not rejected; that one's level holds for all the
    others. Whatever the dependence between the tests, the chance to reject any true hypothesis is at most `level`.
    """
    levels = [0.0] * len(p_values)
    reached, stopped = 0.0, False
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        reached = reached if stopped else level / (len(p_values) - place)
        levels[index] = reached
        stopped = stopped or p_values[index] > reached
    return levels


def spent(level: float, looks: Sequence[int]) -> list[float]:
    """How much of `level` each look at growing data may use up; `looks` are the units (pairs) seen at each.

    The increments of level * ln(1 + (e - 1) t), the spending function of Pocock's kind by Lan and DeMets (Biometrika
    70, 1983), t being the share of the last look's units. Each is used as the level of its own look, as if the looks
    did not resemble each other (Bonferroni): simpler than their joint distribution, and never too bold.
    """
    shares = [math.log1p((math.e - 1) * look / looks[-1]) for look in looks]
    return [level * (now - before) for before, now in zip([0.0, *shares], shares, strict=False)]
