"""Differences of two sides, held against scipy's own tests, published values and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from scalebench.stats.differences import Difference, of_pairs, of_sessions
from scalebench.stats.multiple import holm_levels, spent

LOOKS = (10, 20, 40)


def alternating(seed: int, n: int = 10) -> np.ndarray:
    """Differences whose neighbours are unlike, so that no memory is found in them."""
    random = np.random.default_rng(seed)
    return np.abs(random.normal(0.05, 0.02, n)) * np.tile([1, -1], n // 2) + 0.01


def test_few_pairs_without_memory_are_the_paired_t_test() -> None:
    logs = alternating(0, 8)
    found, test = of_pairs(logs, 0.0), stats.ttest_1samp(logs, 0.0)
    assert found.p_above == pytest.approx(stats.ttest_1samp(logs, 0.0, alternative="greater").pvalue)
    assert found.p_below == pytest.approx(stats.ttest_1samp(logs, 0.0, alternative="less").pvalue)
    low, high = test.confidence_interval(0.90)
    assert found.interval(0.05) == pytest.approx((math.exp(low), math.exp(high)))
    assert found.ratio == pytest.approx(math.exp(logs.mean()))


def test_pairs_that_were_disturbed_are_the_trimmed_t_test() -> None:
    """Held against scipy's trimmed mean and its error from winsorized values."""
    logs = alternating(1, 20)
    logs[[3, 11]] = 0.9, -0.4
    found = of_pairs(logs, 0.0)
    low, high = stats.mstats.trimmed_mean_ci(logs, limits=(0.1, 0.1), alpha=0.10)
    assert found.interval(0.05) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-9)


def test_sessions_of_equal_size_are_students_t_test_of_their_means() -> None:
    random = np.random.default_rng(1)
    base, new = ([random.normal(m, 0.05) + random.normal(0, 0.001, 5) for _ in range(4)] for m in (0.0, 0.02))
    found = of_sessions(base, new, 0.0)
    means = [[session.mean() for session in side] for side in (new, base)]
    test = stats.ttest_ind(*means, alternative="greater")
    assert found.p_above == pytest.approx(test.pvalue)
    assert (found.freedom, found.units) == (6, pytest.approx(4))


def test_one_new_session_is_predicted_from_the_spread_of_the_baselines() -> None:
    """The textbook's prediction interval for one more observation: t * s * sqrt(1 + 1/m)."""
    base, new = [[0.00, 0.00], [0.02, 0.02], [0.04, 0.04]], [[0.10, 0.10]]
    found = of_sessions(base, new, 0.0)
    assert found.error == pytest.approx(0.02 * math.sqrt(1 + 1 / 3))
    assert found.freedom == 2


def test_a_smaller_new_session_is_known_less_well() -> None:
    base = [[-0.1, 0.1, -0.1, 0.1] for _ in range(3)]
    whole, small = of_sessions(base, [[-0.1, 0.1, -0.1, 0.1]], 0.0), of_sessions(base, [[0.1]], 0.0)
    assert small.error > 1.5 * whole.error


def test_spread_is_never_believed_to_be_below_the_machines_own() -> None:
    equal = of_pairs([0.02] * 10, 0.01)
    assert equal.error == pytest.approx(0.01 / math.sqrt(10))
    sessions = of_sessions([[0.0, 0.0]] * 3, [[0.0, 0.0]], 0.01)
    assert sessions.error == pytest.approx(0.01 / math.sqrt(2) / math.sqrt(2) * math.sqrt(1 / 3 + 1))


@pytest.mark.parametrize(("make", "count"), [(of_pairs, 1), (of_sessions, 2)])
def test_too_little_is_refused(make: object, count: int) -> None:
    with pytest.raises(ValueError, match="needs"):
        of_pairs([0.1] * count, 0.01) if make is of_pairs else of_sessions([[0.1, 0.2]] * count, [[0.1]], 0.01)


def test_power_is_what_simulation_finds() -> None:
    random, n, spread, effect, level = np.random.default_rng(2), 12, 0.04, 0.05, 0.01
    known = Difference(mean=0.0, error=spread / math.sqrt(n), freedom=n - 1, units=n)
    drawn = random.normal(math.log1p(effect), spread, (20_000, n))
    t = drawn.mean(axis=1) / drawn.std(axis=1, ddof=1) * math.sqrt(n)
    assert known.power(effect, level) == pytest.approx((stats.t.sf(t, n - 1) <= level).mean(), abs=0.01)


def test_units_needed_are_the_fewest_that_reach_the_power() -> None:
    known = Difference(mean=0.0, error=0.04 / math.sqrt(10), freedom=9, units=10)
    needed = known.units_for(0.05, 0.01, 0.95)
    assert needed is not None
    assert known.of_units(needed).power(0.05, 0.01) >= 0.95 > known.of_units(needed - 1).power(0.05, 0.01)
    assert Difference(mean=0.0, error=10.0, freedom=9, units=10).units_for(0.001, 0.01, 0.95) is None


def closed_testing(p_values: list[float], weights: list[float], level: float) -> list[bool]:
    """Holm's procedure by its definition: a hypothesis falls when every intersection that has it does (Bonferroni)."""
    indices = range(len(p_values))
    sets = [chosen for size in indices for chosen in itertools.combinations(indices, size + 1)]

    def falls(chosen: tuple[int, ...]) -> bool:
        return any(p_values[j] <= level * weights[j] / sum(weights[k] for k in chosen) for j in chosen)

    return [all(falls(chosen) for chosen in sets if i in chosen) for i in indices]


@pytest.mark.parametrize("weighted", [False, True])
def test_holm_rejects_what_closed_testing_does(weighted: bool) -> None:
    random = np.random.default_rng(3)
    for _ in range(300):
        p_values = (random.random(random.integers(1, 6)) * 0.08).tolist()
        weights = random.choice([1.0, 10.0], len(p_values)).tolist() if weighted else [1.0] * len(p_values)
        levels = holm_levels(p_values, 0.05, weights if weighted else None)
        found = [p <= level for p, level in zip(p_values, levels, strict=True)]
        assert found == closed_testing(p_values, weights, 0.05)


def test_holm_of_nothing() -> None:
    assert holm_levels([], 0.01) == []


def test_looks_spend_the_level_and_no_more() -> None:
    levels = spent(0.01, LOOKS)
    assert sum(levels) == pytest.approx(0.01)
    assert spent(0.01, (7,)) == pytest.approx([0.01])
    assert [levels[0], levels[0] + levels[1]] == pytest.approx([0.01 / 8, 0.01 / math.sqrt(8)])  # t = 1/4 and 1/2


def false_alarms(trials: int, memory: float, seed: int) -> float:
    """Share of A/A comparisons that some look calls slower: heavy tails, neighbours that correlate by `memory`."""
    random = np.random.default_rng(seed)
    alarms = 0
    for _ in range(trials):
        noise = random.standard_t(4, LOOKS[-1]) * 0.03
        logs = np.zeros(LOOKS[-1])
        logs[0] = noise[0]
        for i in range(1, len(logs)):
            logs[i] = memory * logs[i - 1] + math.sqrt(1 - memory**2) * noise[i]
        pairs = zip(LOOKS, spent(0.01, LOOKS), strict=True)
        alarms += any(of_pairs(logs[:look], 0.01).p_above <= level for look, level in pairs)
    return alarms / trials


@pytest.mark.parametrize("memory", [0.0, 0.3])
def test_false_alarms_over_all_looks(memory: float) -> None:
    """400 trials: 1% is 4; 12 or more would be seen once in 1,000 if it were 1%."""
    assert false_alarms(400, memory, seed=4) * 400 < 12


@pytest.mark.slow
@pytest.mark.parametrize(("memory", "most"), [(0.0, 0.01), (0.2, 0.01), (0.4, 0.02)])
def test_false_alarms_over_all_looks_closely(memory: float, most: float) -> None:
    """Neighbouring pairs of real A/A runs correlate by -0.6 to 0.4 in 7 pairs, that is by nothing that is seen."""
    assert false_alarms(10_000, memory, seed=5) <= most
