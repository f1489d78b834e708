"""The study of resampled groups, on figures made by hand: it tells sessions that differ from sessions that do not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.resampling import TARGET, Sessions, apart, containing, from_all, in_blocks

PAIRS = 400


def sessions(shift: float = 0.0, drift: float = 0.0) -> Sessions:
    """Four sessions of 15 processes each with 3% between processes; each session `shift` faster than the one before,
    and its first process `drift` slower than its last."""
    random = np.random.default_rng(1)
    grown = np.linspace(0, drift, 15)
    return [np.exp(random.normal(shift * number, 0.03, 15) + grown).tolist() for number in range(4)]


def test_groups_of_equal_processes_are_found_equal_however_they_are_drawn() -> None:
    assert all(containing(draw, sessions(), 5, PAIRS, seed=0) >= TARGET for draw in (in_blocks, from_all))
    assert containing(apart, sessions(), 5, PAIRS, seed=0) >= 0.85, "15 processes each differ a little by chance"


def test_sessions_that_differ_mislead_only_who_compares_across_them() -> None:
    assert containing(in_blocks, sessions(shift=0.1), 5, PAIRS, seed=0) >= TARGET
    assert containing(apart, sessions(shift=0.1), 5, PAIRS, seed=0) <= 0.3


def test_within_a_session_that_drifts_neighbours_are_still_equal() -> None:
    assert containing(in_blocks, sessions(drift=0.2), 5, PAIRS, seed=0) >= TARGET


@pytest.mark.parametrize("draw", [in_blocks, from_all])
def test_a_difference_that_is_there_is_not_contained(draw: object) -> None:
    """What `containing` counts can fail: shift one group by 30%."""

    def shifted(random: np.random.Generator, figures: Sessions, group: int) -> tuple[list[float], list[float]]:
        one, other = draw(random, figures, group)  # type: ignore[operator]
        return one, [1.3 * value for value in other]

    assert containing(shifted, sessions(), 5, PAIRS, seed=0) <= 0.05


@pytest.mark.parametrize("draw", [in_blocks, from_all, apart])
def test_no_process_is_in_both_groups(draw: object) -> None:
    distinct = [[float(100 * session + process) for process in range(15)] for session in range(4)]
    for seed in range(50):
        one, other = draw(np.random.default_rng(seed), distinct, 7)  # type: ignore[operator]
        assert len(one) == len(other) == 7
        assert len({*one, *other}) == 14
