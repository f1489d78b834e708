"""The test of warm-up's end: steps of any distribution are steady, and those that differ are not."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from scalebench.stats.steady import LEAST_SHIFT, settled
from tests.benchmarks.series import Random, Series, bimodal, heavy, normal

DRAWS = {"normal": partial(normal, 0.5), "heavy tail": partial(heavy, 0.0), "two speeds": partial(bimodal, 0.0)}


def rows(name: str, before: int, count: int = 200) -> list[tuple[Series, Series]]:
    """Pairs of what comes before a window and the window, from one steady row."""
    random: Random = np.random.default_rng(1)
    drawn = [DRAWS[name](random, before + 200, 0.05) for _ in range(count)]
    return [(row[:before], row[before:]) for row in drawn]


@pytest.mark.parametrize("before", [10, 40, 200])
@pytest.mark.parametrize("name", DRAWS)
def test_steady_steps_are_settled(name: str, before: int) -> None:
    assert np.mean([settled(first, window) for first, window in rows(name, before)]) >= 0.95


@pytest.mark.parametrize("name", DRAWS)
def test_steps_that_were_slower_before_are_not(name: str) -> None:
    assert np.mean([settled(2 * first, window) for first, window in rows(name, 10)]) <= 0.1
    assert np.mean([settled(1.2 * first, window) for first, window in rows(name, 100)]) <= 0.1


def test_a_difference_that_matters_to_nobody_is_not_looked_for() -> None:
    random = np.random.default_rng(2)
    window = 1 + 1e-4 * random.normal(size=200)
    assert settled(window[:100] * (1 + 0.8 * LEAST_SHIFT), window)
    assert not settled(window[:100] * (1 + 1.2 * LEAST_SHIFT), window)


def test_a_window_that_drifts_is_not_settled_and_the_first_one_has_nothing_before_it() -> None:
    assert not settled([1.0] * 50, np.linspace(1, 1.5, 100))
    assert settled([], [1.0] * 50)
