"""Several tests, or one test made several times, with one promise: the chance of any false claim stays at a level."""

from __future__ import annotations

from collections.abc import Sequence


def holm_levels(p_values: Sequence[float], level: float, weights: Sequence[float] | None = None) -> list[float]:
    """The level at which each of several hypotheses is tested; it is rejected where its p-value is no larger.

    Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979), with weights where some matter more: each
    is tested at its share of `level` among those not yet rejected, that with the smallest p-value for its weight first,
    until one is not rejected. Whatever the dependence between the tests, the chance to reject any true hypothesis is at
    most `level`.
    """
    weights = weights or [1.0] * len(p_values)
    levels = [0.0] * len(p_values)
    left, stopped = sum(weights), False
    for index in sorted(range(len(p_values)), key=lambda index: p_values[index] / weights[index]):
        levels[index] = level * weights[index] / left
        stopped = stopped or p_values[index] > levels[index]
        left -= 0 if stopped else weights[index]
    return levels


def spent(level: float, looks: Sequence[int]) -> list[float]:
    """How much of `level` each look at growing data may use up; `looks` are the units (pairs) seen at each.

    The increments of level * t^(3/2), a spending function of Kim and DeMets (Biometrika 74, 1987) that leaves most for
    the last look, t being the share of the last look's units. Each is used as the level of its own look, as if the
    looks did not resemble each other (Bonferroni): simpler than their joint distribution, and never too bold.
    """
    shares = [(look / looks[-1]) ** 1.5 for look in looks]
    return [level * (now - before) for before, now in zip([0.0, *shares], shares, strict=False)]
