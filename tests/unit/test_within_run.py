"""Memory, intervals and drift of one run's steps, against theory of the AR(1) series and against what they promise."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import signal, stats

from scalebench.stats.within_run import (
    LEAST_STEPS,
    autocorrelation_time,
    drift,
    half_width,
    median_interval,
    too_short,
)
from tests.benchmarks.series import bimodal, heavy, memory_of_two


def autoregressive(random: np.random.Generator, steps: int, correlation: float) -> npt.NDArray[np.float64]:
    """Step times of median 1 and sd 5% with the given lag-1 correlation, in equilibrium from the first on."""
    noise = random.normal(size=steps) * math.sqrt(1 - correlation**2)
    noise[0] = random.normal()
    filtered: npt.NDArray[np.float64] = signal.lfilter([1.0], [1.0, -correlation], noise)
    return 1 + 0.05 * filtered


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_the_autocorrelation_time_is_that_of_the_theory(correlation: float) -> None:
    """(1 + r) / (1 - r) for an AR(1) series; ranks of normal values are correlated a little less (6/pi asin(r/2))."""
    random = np.random.default_rng(1)
    found = np.mean([autocorrelation_time(autoregressive(random, 20_000, correlation)) for _ in range(10)])
    lags = np.arange(1, 200)
    of_ranks = 1 + 2 * np.sum(6 / math.pi * np.arcsin(correlation**lags / 2))
    assert found == pytest.approx(of_ranks, rel=0.07)
    assert of_ranks == pytest.approx((1 + correlation) / (1 - correlation), rel=0.05)


def test_outliers_do_not_hide_the_memory_of_the_other_steps() -> None:
    random = np.random.default_rng(2)
    series = autoregressive(random, 5_000, 0.8)
    series[random.integers(0, 5_000, 20)] = 1000.0
    assert autocorrelation_time(series) > 6


def test_the_memory_of_two_speeds_is_how_long_they_last() -> None:
    """A hidden speed is no autoregressive process; the closed form is in tests/benchmarks/series.py."""
    random = np.random.default_rng(8)
    found = np.mean([autocorrelation_time(bimodal(0.8, random, 20_000, 0.05)) for _ in range(10)])
    assert found == pytest.approx(memory_of_two(0.8), rel=0.1)


def test_a_row_that_never_returns_remembers_at_most_all_of_it() -> None:
    random = np.random.default_rng(9)
    assert 20 < autocorrelation_time(np.cumsum(random.normal(size=100))) <= 100


def test_steps_that_alternate_and_steps_that_are_all_alike_have_no_memory() -> None:
    assert autocorrelation_time([1.0, 2.0] * 50) == 1.0
    assert autocorrelation_time([3.0] * 50) == 1.0


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_intervals_of_fifty_memories_cover_the_median(correlation: float) -> None:
    """Order statistics, which take steps for independent, cover about 55% at a correlation of 0.8.

    The long simulation (tests/benchmarks/steady_simulation.py) shows 93%; here two standard errors of a short one less.
    """
    random, trials = np.random.default_rng(3), 500
    steps = max(50, round(50 * (1 + correlation) / (1 - correlation)))
    found = [median_interval(autoregressive(random, steps, correlation)) for _ in range(trials)]
    assert sum(e.low <= 1 <= e.high for e in found) / trials >= 0.91  # type: ignore[operator]


def test_with_infinite_variance_the_interval_is_little_wider_than_the_exact_one() -> None:
    """Cauchy steps are independent here, so the binomial interval of order statistics is exact.

    Student's t with 9 degrees of freedom is 2.26 / 1.96 = 1.15 of the normal; being the larger of two adds some.
    """
    random, steps = np.random.default_rng(4), 2_000
    widths, exact = [], []
    below = int(stats.binom.ppf(0.025, steps, 0.5))
    for _ in range(200):
        series = np.sort(100 + random.standard_cauchy(steps))
        estimate = median_interval(random.permutation(series))
        widths.append(estimate.high - estimate.low)  # type: ignore[operator]
        exact.append(series[steps - below - 1] - series[below])
    assert 1.1 <= np.mean(widths) / np.mean(exact) <= 1.35


def test_between_two_modes_the_interval_reaches_from_one_to_the_other() -> None:
    random = np.random.default_rng(5)
    estimate = median_interval(random.permutation([1.0] * 500 + [2.0] * 500))
    assert (estimate.low, estimate.high) == (1.0, 2.0)


def test_an_interval_is_marked_and_needs_enough_steps() -> None:
    steps = [1.0, 1.1] * (LEAST_STEPS // 2)
    assert median_interval(steps).within_run
    assert median_interval(steps).value == pytest.approx(1.05)
    assert half_width(median_interval(steps)) is not None
    assert half_width(median_interval(steps[1:])) is None


def test_equal_steps_have_an_interval_of_no_width() -> None:
    assert half_width(median_interval([0.5] * 100)) == 0.0


def test_a_series_is_too_short_for_its_own_memory() -> None:
    random, trials, memory = np.random.default_rng(6), 200, 9
    short = [too_short(autoregressive(random, 5 * memory, 0.8)) for _ in range(trials)]
    long = [too_short(autoregressive(random, 60 * memory, 0.8)) for _ in range(trials)]
    assert np.mean(short) >= 0.95
    assert np.mean(long) <= 0.05


def test_drift_is_measured_where_there_is_one_and_seldom_where_there_is_none() -> None:
    random, trials = np.random.default_rng(7), 300
    still = [drift(autoregressive(random, 450, 0.8)) for _ in range(trials)]
    rising = [drift(autoregressive(random, 450, 0.8) + np.linspace(0, 0.2, 450)) for _ in range(trials)]
    assert np.mean([change is not None for change in still]) <= 0.03
    assert np.mean([change is not None for change in rising]) >= 0.97
    # 20% from 1.0 up, over a median of 1.1
    assert np.median([change for change in rising if change is not None]) == pytest.approx(0.2 / 1.1, rel=0.1)


@pytest.mark.parametrize("tail", [False, True])
def test_a_drift_of_six_half_widths_of_the_interval_is_found(tail: bool) -> None:
    random, trials, steps = np.random.default_rng(10), 200, 200
    rows = [heavy(0.0, random, steps, 0.05) if tail else autoregressive(random, steps, 0.0) for _ in range(trials)]
    width = float(np.median([half_width(median_interval(row)) for row in rows]))  # type: ignore[arg-type]
    found = [drift(row + np.linspace(0, 6 * width, steps)) for row in rows]
    assert np.mean([change is not None and change > 0 for change in found]) >= 0.9
    assert np.mean([drift(row) is not None for row in rows]) <= 0.03


def test_a_drift_too_small_to_matter_is_none() -> None:
    assert drift(np.linspace(1, 1.005, 1000)) is None
    assert drift(np.linspace(1, 1.05, 1000)) == pytest.approx(0.05 / 1.025, rel=0.02)
    assert drift([1.0] * 100) is None
