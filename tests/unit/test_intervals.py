"""Intervals against scipy's own tests, against formulas by hand, and against what they promise: their coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from scalebench.stats.intervals import Estimate, geometric_mean, geometric_ratio

positive = st.floats(min_value=1e-6, max_value=1e6)
cells = st.lists(positive, min_size=2, max_size=8).filter(lambda values: np.log(values).std() > 1e-6)


@given(cells)
def test_the_mean_is_scipys_one_sample_t_interval_of_logs(values: list[float]) -> None:
    estimate = geometric_mean(values)
    interval = stats.ttest_1samp(np.log(values), 0).confidence_interval(0.95)
    assert estimate.value == pytest.approx(stats.gmean(values))
    assert (estimate.low, estimate.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))


@given(cells, cells)
def test_the_ratio_is_scipys_welch_interval_of_logs(top: list[float], bottom: list[float]) -> None:
    estimate = geometric_ratio(top, bottom, confidence=0.9)
    interval = stats.ttest_ind(np.log(top), np.log(bottom), equal_var=False).confidence_interval(0.9)
    assert estimate.value == pytest.approx(stats.gmean(top) / stats.gmean(bottom))
    assert (estimate.low, estimate.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))


@given(cells, cells)
def test_a_ratio_turned_over_is_the_inverse(top: list[float], bottom: list[float]) -> None:
    up, down = geometric_ratio(top, bottom), geometric_ratio(bottom, top)
    assert (1 / down.value, 1 / down.high, 1 / down.low) == pytest.approx((up.value, up.low, up.high))  # type: ignore[operator]


def test_one_process_supports_no_interval() -> None:
    assert geometric_mean([3.0]) == Estimate(value=3.0, processes=1)
    assert geometric_ratio([3.0], [2.0, 2.0]).low is None
    assert geometric_ratio([3.0, 3.0], [2.0]).processes == 1


def test_identical_processes_give_a_degenerate_interval_not_a_failure() -> None:
    estimate = geometric_ratio([4.0, 4.0], [2.0, 2.0])
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((2.0, 2.0, 2.0))


def test_scaling_an_estimate_scales_its_ends() -> None:
    scaled = Estimate(value=2.0, low=1.0, high=4.0, processes=5).scaled(0.5)
    assert (scaled.low, scaled.value, scaled.high) == (0.5, 1.0, 2.0)


def test_ratio_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """5 against 5 processes of unequal spread, true ratio 1.1: 95% coverage within the simulation's own error."""
    random, trials, truth = np.random.default_rng(1), 1500, 1.1
    hits = 0
    for _ in range(trials):
        top, bottom = truth * np.exp(random.normal(0, 0.08, 5)), np.exp(random.normal(0, 0.03, 5))
        estimate = geometric_ratio(top.tolist(), bottom.tolist())
        hits += estimate.low <= truth <= estimate.high  # type: ignore[operator]
    assert 0.93 <= hits / trials <= 0.97
