"""A small part of the simulation of whole runs, and that it would see an interval, a rule or a flag that is wrong."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest

from scalebench.stats import within_run
from tests.benchmarks import steady_simulation as simulation
from tests.benchmarks.series import STATIONARY
from tests.benchmarks.steady_simulation import PROMISES, Found, cases, simulated

SERIES = 60
CASES = [
    "correlation 0.8, 50 memories",
    "two speeds in turns, 200 memories",
    "heavy tail, noise 5%",
    "correlation 0.8, 5 memories",
    "correlation 0.8, 50 memories, drift of 20%",
    "decay of up to 2000 steps, white noise, noise 5%",
    "plateau of up to 64 steps, correlation 0.8, noise 1%",
]


def found(name: str, series: int = SERIES) -> list[Found]:
    (case,) = (case for case in cases() if case.name == name)
    return simulated(case, series)


@pytest.mark.parametrize("name", CASES)
def test_promises_are_kept_within_the_error_of_few_series(name: str) -> None:
    results = found(name)
    assert results
    for one in results:
        least = PROMISES[one.promise]
        assert one.share >= least - 3 * math.sqrt(least * (1 - least) / SERIES)


def test_every_promise_has_a_case_here() -> None:
    chosen = [case for case in cases() if case.name in CASES]
    assert len(chosen) == len(CASES)
    assert {promise for case in chosen for promise in case.promises} == set(PROMISES)


def test_an_interval_that_takes_steps_for_independent_is_seen_to_fail() -> None:
    """Order statistics of independent steps cover about 55% at a correlation of 0.8."""
    binomial = mock.patch.object(within_run, "_uncertain_share", lambda steps, *_: 0.98 / math.sqrt(len(steps)))
    with binomial:
        (covers, _) = found("correlation 0.8, 50 memories")
    assert covers.promise == simulation.FIXED_COVERS
    assert covers.share <= 0.75


def test_a_warm_up_that_is_not_waited_for_is_seen() -> None:
    at_once = {"warmup_steps": 1, "steps": 100, "target_precision": None, "max_seconds": None}
    with mock.patch.dict(simulation.OPEN, at_once):
        (warm,) = found("decay of up to 2000 steps, white noise, noise 5%")
    assert warm.share <= 0.6


def test_a_flag_that_is_never_raised_and_one_that_always_is_are_seen() -> None:
    with mock.patch("scalebench.analysis.unsteady.too_short", return_value=False):
        (short,) = found("correlation 0.8, 5 memories", 20)
    with mock.patch("scalebench.analysis.unsteady.drift", return_value=0.1):
        (_, calm) = found("correlation 0.8, 50 memories", 20)
    assert short.kept <= 4, "a few seem to drift"
    assert calm.kept == 0


@pytest.mark.parametrize("scenario", STATIONARY, ids=lambda scenario: scenario.name)
def test_the_median_of_each_scenario_is_1_and_its_memory_as_said(scenario: simulation.Scenario) -> None:
    """Memory by another way than the code's: how much more the mean of a long stretch of ranks varies."""
    random, length, stretches = np.random.default_rng(3), 2000, 400
    row = scenario.draw(random, length * stretches, 0.05)
    assert np.mean(row < 1) == pytest.approx(0.5, abs=0.01)
    ranks = np.argsort(np.argsort(row)).reshape(stretches, length)
    memory = ranks.mean(axis=1).var() * length / ranks.var()
    assert memory == pytest.approx(scenario.memory, rel=0.25) or (scenario.name == "periodic stalls" and memory < 1)
