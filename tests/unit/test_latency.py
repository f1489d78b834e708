"""The line through message times, against exact lines and scipy's general least squares."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from scalebench.stats.latency import fit_line
from scalebench.stats.spread import of_slowest

SIZES = [64 * 8**k for k in range(8)]


def test_an_exact_line_is_found_again() -> None:
    line = fit_line(SIZES, [20e-6 + size / 3e9 for size in SIZES])
    assert line.latency_seconds == pytest.approx(20e-6)
    assert line.bytes_per_second == pytest.approx(3e9)
    assert line.largest_error < 1e-9
    assert line.seconds(3e9) == pytest.approx(1 + 20e-6)


def test_it_is_the_least_squares_of_relative_errors() -> None:
    times = np.array([20e-6 + size / 3e9 for size in SIZES]) * np.random.default_rng(0).uniform(0.7, 1.4, len(SIZES))

    def errors(logs: np.ndarray) -> np.ndarray:
        latency, per_byte = np.exp(logs)
        return (latency + per_byte * np.array(SIZES) - times) / times

    reference = least_squares(errors, np.log([1e-5, 1e-9]), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    line = fit_line(SIZES, times.tolist())
    assert line.latency_seconds == pytest.approx(np.exp(reference.x[0]), rel=1e-5)
    assert line.bytes_per_second == pytest.approx(1 / np.exp(reference.x[1]), rel=1e-5)
    assert line.rms_error == pytest.approx(np.sqrt(np.mean(reference.fun**2)), rel=1e-6)
    assert line.largest_error == pytest.approx(np.abs(reference.fun).max(), rel=1e-4)


def test_neither_term_is_ever_negative() -> None:
    falling = fit_line([1, 1000], [2.0, 1.0])
    assert falling.bytes_per_second is None, "time that does not grow with size has no bandwidth, not an infinite one"
    assert falling.seconds(10**9) == falling.latency_seconds > 0
    steep = fit_line([1000, 2000], [1.0, 4.0])
    assert steep.latency_seconds == 0
    assert steep.bytes_per_second is not None


def test_a_repeat_takes_as_long_as_its_slowest_rank() -> None:
    found = of_slowest([[1.0, 5.0, 2.0], [2.0, 1.0, 3.0]])
    assert (found.median, found.low, found.high) == (3.0, 2.0, 5.0)
    rate = found.rate(30.0)
    assert (rate.median, rate.low, rate.high) == (10.0, 6.0, 15.0)
