"""Stalls and double modes planted in noise are found, and noise alone has none."""

import numpy as np
import pytest

from scalebench.stats.irregular import stalls, two_modes


def noise(steps: int, seed: int = 0, spread: float = 0.02) -> np.ndarray:
    return 1 + spread * np.random.default_rng(seed).normal(size=steps)


def test_quiet_steps_have_neither() -> None:
    rows = [noise(steps, seed) for seed in range(100) for steps in (44, 300)]
    assert not any(stalls(row) for row in rows)
    assert sum(two_modes(row) is not None for row in rows) <= 4


def test_stalls_are_counted_and_their_cost_is_what_exceeds_the_median() -> None:
    row = np.ones(100)
    row[[10, 35, 36, 80]] = 3.0
    found = stalls(row)
    assert found is not None
    assert (found.count, found.period) == (4, None)
    assert found.lost == pytest.approx(8 / 108)


@pytest.mark.parametrize("period", [7, 20, 64])
def test_the_period_of_regular_stalls_is_found(period: int) -> None:
    row = noise(10 * period)
    row[period // 2 :: period] += 0.5
    found = stalls(row)
    assert found is not None
    assert (found.count, found.period) == (10, period)


def test_a_stall_left_out_and_steps_dropped_at_a_pause_do_not_hide_the_period() -> None:
    row = noise(1000)
    row[13::25] += 0.5
    row[13 + 25 * 7] = 1.0
    found = stalls(np.delete(row, [300, 301]))
    assert found is not None
    assert found.period == 25


def test_stalls_at_random_have_no_period() -> None:
    for seed in range(100):
        random = np.random.default_rng(seed)
        row = noise(300, seed)
        row[random.choice(300, 15, replace=False)] += 0.5
        found = stalls(row)
        assert found is not None
        assert found.period is None


def test_two_modes_are_found_with_their_share() -> None:
    random = np.random.default_rng(1)
    row = noise(400) + 0.2 * (random.uniform(size=400) < 0.3)
    found = two_modes(row)
    assert found is not None
    assert found.fast == pytest.approx(1.0, abs=0.02)
    assert found.slow == pytest.approx(1.2, abs=0.02)
    assert found.share_slow == pytest.approx(np.mean(row > 1.1), abs=0.02)


def test_a_few_stalls_are_no_second_mode() -> None:
    row = noise(400)
    row[::40] += 0.5
    assert two_modes(row) is None
