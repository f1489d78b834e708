"""Unions and differences of time intervals against a count of unit ticks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scalebench.meters.communication import length, outside, union

INTERVALS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: (min(pair), max(pair))))


def ticks(intervals: list[tuple[int, int]]) -> set[int]:
    return {tick for start, end in intervals for tick in range(start, end)}


@given(INTERVALS, INTERVALS)
def test_time_covered_and_time_left_over(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    assert length(union(some)) == len(ticks(some))
    assert length(outside(union(some), union(others))) == len(ticks(some) - ticks(others))
