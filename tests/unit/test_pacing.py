"""The rule of how many steps to run, on step times made by hand: nothing sleeps and nothing is measured."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from scalebench.stats.pacing import (
    ENOUGH_STEPS,
    LEAST_WINDOW,
    LONGEST_CHUNK,
    REFILL_STEPS,
    Chunk,
    Rule,
    Stopped,
    kept,
    pace,
    warm_up_tail,
)
from scalebench.stats.within_run import half_width, median_interval

Series = npt.NDArray[np.float64]


def paced(rule: Rule, series: Series) -> tuple[list[Chunk], int, Stopped]:
    """The chunks that `rule` asks for when steps take `series`, the first step of the window, and why it stopped."""
    rows, chunks, done, first = pace(rule), list[Chunk](), 0, -1
    try:
        chunk = next(rows)
        while True:
            chunks.append(chunk)
            first = done if chunk.opens else first
            steps = series[done : done + chunk.steps].tolist()
            assert len(steps) == chunk.steps, "the series is too short for this test"
            done += chunk.steps
            chunk = rows.send(steps)
    except StopIteration as over:
        return chunks, first, over.value


def noise(steps: int, spread: float = 0.05, seed: int = 0) -> Series:
    return 1 + spread * np.random.default_rng(seed).normal(size=steps)


def timed(chunks: list[Chunk], first: int) -> int:
    """Steps that estimates use."""
    starts = np.cumsum([0, *(chunk.steps for chunk in chunks)])
    return int(kept(starts[:-1].tolist(), int(starts[-1]))[first:].sum())


def test_exact_numbers_are_kept_exactly() -> None:
    chunks, first, stopped = paced(Rule(warmup_steps=7, steps=500), noise(600))
    assert chunks == [Chunk(steps=7, opens=False), Chunk(steps=500 + REFILL_STEPS, opens=True)]
    assert (first, timed(chunks, first), stopped) == (7, 500, "steps")


def test_steady_steps_end_as_soon_as_the_median_is_known() -> None:
    chunks, first, stopped = paced(Rule(precision=0.05), noise(10_000))
    assert (first, stopped) == (16, "precise")
    assert sum(chunk.steps for chunk in chunks) == 128
    assert timed(chunks, first) >= ENOUGH_STEPS, "however precise it was before"
    finer, first, _ = paced(Rule(precision=0.005), noise(10_000))
    assert timed(finer, first) > 10 * timed(chunks, 16)
    assert max(chunk.steps for chunk in finer) == LONGEST_CHUNK


def test_it_ends_only_where_the_number_of_steps_has_doubled() -> None:
    ends = set()
    for seed in range(60):
        chunks, _, stopped = paced(Rule(precision=0.02), noise(100_000, seed=seed))
        assert stopped == "precise"
        ends.add(sum(chunk.steps for chunk in chunks))
    assert all(math.log2(end).is_integer() for end in ends)
    assert len(ends) > 1


def test_at_the_end_the_precision_asked_for_is_there() -> None:
    row = noise(100_000, seed=3)
    chunks, first, _ = paced(Rule(precision=0.01), row)
    starts = np.cumsum([0, *(chunk.steps for chunk in chunks)])
    mask = kept(starts[:-1].tolist(), int(starts[-1]))
    width = half_width(median_interval(row[: starts[-1]][first:][mask[first:]]))
    assert width is not None
    assert width <= 0.01


@pytest.mark.parametrize("length", [1, 5, 40, 300])
@pytest.mark.parametrize(
    "shape",
    [
        lambda k, length: 2 * np.exp(-3 * k / length),
        lambda k, length: np.clip(2 - 2 * k / length, 0, None),
        lambda k, length: -0.4 * np.exp(-3 * k / length),
    ],
    ids=["decay", "ramp", "faster at first"],
)
def test_the_window_begins_after_the_warm_up(shape: Callable[[Series, int], Series], length: int) -> None:
    steps = np.arange(20_000)
    for seed in range(5):
        row = noise(len(steps), seed=seed)
        chunks, first, stopped = paced(Rule(precision=0.02), row + shape(steps, length))
        assert stopped == "precise"
        window = slice(first, sum(chunk.steps for chunk in chunks))
        assert abs(np.median((row + shape(steps, length))[window]) - np.median(row[window])) <= 0.01


def test_warm_up_can_be_exact_and_the_window_open() -> None:
    chunks, first, stopped = paced(Rule(warmup_steps=5, precision=0.03), noise(10_000))
    assert (first, stopped) == (5, "precise")
    assert math.log2(sum(chunk.steps for chunk in chunks) - 5).is_integer()


def test_warm_up_can_be_open_and_the_window_exact() -> None:
    row = noise(10_000) + 3 * np.exp(-np.arange(10_000) / 30)
    chunks, first, stopped = paced(Rule(steps=50, max_seconds=5000), row)
    assert (timed(chunks, first), stopped) == (50, "steps")
    assert first >= 128


def test_time_is_up_within_a_step_and_the_first_step_is_free() -> None:
    row = np.concatenate([[1000.0], noise(1000)])
    chunks, _, stopped = paced(Rule(precision=1e-6, max_seconds=100), row)
    total = sum(chunk.steps for chunk in chunks)
    assert stopped == "max_seconds"
    assert 95 <= total - 1 <= 103


def test_steps_longer_than_the_time_allowed_still_give_a_figure() -> None:
    chunks, first, stopped = paced(Rule(precision=0.01, max_seconds=0.5), noise(100))
    assert stopped == "max_seconds"
    assert timed(chunks, first) == LEAST_WINDOW


def test_what_never_settles_ends_too() -> None:
    row = noise(3000) + np.linspace(0, 30, 3000)
    chunks, first, stopped = paced(Rule(precision=0.02, max_seconds=20_000), row)
    assert stopped == "max_seconds"
    assert timed(chunks, first) >= LEAST_WINDOW


def test_after_each_pause_the_refill_is_dropped() -> None:
    assert kept([0, 4, 10], 12).tolist() == [
        False,
        False,
        True,
        True,
        False,
        False,
        True,
        True,
        True,
        True,
        False,
        False,
    ]
    assert warm_up_tail(64) == slice(16, 64)
