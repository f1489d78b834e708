"""The rules of a search, against every outcome there can be and by brute force."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebench.search.rule import SLOWER, Edge, candidates, compare, find_edge, follow

Fits = Callable[[int], bool]


def searched(values: Sequence[int], fits: Fits, start: int = 0) -> tuple[Edge, list[int]]:
    """The edge, and what was tried on the way."""
    tried: list[int] = []

    def answer(value: int) -> bool:
        tried.append(value)
        return fits(value)

    return follow(find_edge(values, start), answer), tried


VALUES = st.lists(st.integers(1, 10_000), min_size=1, max_size=200, unique=True).map(sorted)


@given(VALUES, st.integers(0, 10_001), st.data())
def test_the_edge_is_that_of_brute_force_wherever_it_begins(values: list[int], limit: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(values) - 1))
    edge, tried = searched(values, lambda value: value <= limit, start)
    assert edge.largest == max((value for value in values if value <= limit), default=None)
    assert edge.refused == min((value for value in values if value > limit), default=None)
    assert {edge.largest, edge.refused} - {None} <= set(tried), "found, not concluded"
    assert len(tried) == len(set(tried))
    assert len(tried) <= 2 * len(values).bit_length() + 1


@given(VALUES, st.data())
def test_whatever_fits_it_ends_at_neighbours_of_which_one_fits_and_one_does_not(
    values: list[int], data: st.DataObject
) -> None:
    fitting = data.draw(st.sets(st.sampled_from(values)))
    start = data.draw(st.integers(0, len(values) - 1))
    edge, tried = searched(values, fitting.__contains__, start)
    places = [-1 if edge.largest is None else values.index(edge.largest)]
    places.append(len(values) if edge.refused is None else values.index(edge.refused))
    assert places[1] == places[0] + 1
    assert edge.largest is None or edge.largest in fitting
    assert edge.refused is None or edge.refused not in fitting
    assert len(tried) <= 2 * len(values).bit_length() + 1


def test_from_one_on_values_double_until_one_is_refused_and_are_halved_between() -> None:
    assert searched(range(1, 1000), lambda value: value <= 11)[1] == [1, 2, 4, 8, 16, 12, 10, 11]


def test_a_start_beyond_the_edge_is_halved() -> None:
    assert searched(range(1, 1000), lambda value: value <= 5, start=31)[1] == [32, 16, 8, 4, 6, 5]


@pytest.mark.parametrize(
    ("values", "largest", "expected"),
    [
        (range(1, 100), 1, [1]),
        (range(1, 100), 8, [8, 4, 2, 1]),
        (range(1, 100), 37, [37, 32, 16, 8, 4, 2, 1]),
        ([1, 3, 9, 27, 81], 27, [27, 9, 3, 1]),
        ([1, 2, 3, 4, 6, 12], 6, [6, 4, 2, 1]),
    ],
)
def test_candidates_are_the_edge_and_the_powers_of_two_below_it(
    values: Sequence[int], largest: int, expected: list[int]
) -> None:
    assert candidates(values, largest) == expected


@given(VALUES, st.data())
def test_candidates_are_values_that_fit_and_few(values: list[int], data: st.DataObject) -> None:
    largest = data.draw(st.sampled_from(values))
    found = candidates(values, largest)
    assert found[0] == largest
    assert found == sorted(set(found) & set(values), reverse=True)
    assert len(found) <= largest.bit_length() + 1


def test_comparing_ends_once_two_in_a_row_are_clearly_slower() -> None:
    rates = {64: 90.0, 32: 100.0, 16: 95.0, 8: 80.0, 4: 70.0, 2: 200.0}
    assert follow(compare(list(rates)), rates.__getitem__) == {64: 90.0, 32: 100.0, 16: 95.0, 8: 80.0, 4: 70.0}


@given(st.lists(st.one_of(st.none(), st.floats(1e-3, 1e6)), max_size=12))
def test_nothing_left_out_of_a_comparison_follows_fewer_than_two_slower_ones(rates: list[float | None]) -> None:
    found = follow(compare(range(len(rates))), rates.__getitem__)
    known = [rate for rate in rates[: len(rates)] if rate is not None]
    assert list(found.values()) == known[: len(found)]
    if len(found) < len(known):
        best = max(found.values())
        assert all(rate < SLOWER * best for rate in list(found.values())[-2:])
