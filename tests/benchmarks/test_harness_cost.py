"""What the harness itself costs: host time of the one loop and its batches around a step that does nothing."""

from __future__ import annotations

from tests.benchmarks.empty_step import microseconds_per_step

LIMIT_MICROSECONDS = 100.0


def test_a_step_that_does_nothing_takes_at_most_100_microseconds() -> None:
    # The quietest of several rows, since neighbours on the cores only ever add time; of each the mean, not the median,
    # since only some of its steps fetch batches.
    quietest = min(microseconds_per_step(rows=1) for _ in range(5))
    assert 0 < quietest <= LIMIT_MICROSECONDS
