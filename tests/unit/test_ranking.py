"""Who is named best, and how often wrongly."""

import numpy as np
import pytest
from scipy import stats

from scalebench.stats.ranking import Ranking, rank


def simulate(means: list[float], sds: list[float], trials: int, seed: int, processes: int = 5) -> list[Ranking]:
    """Rankings of simulated sittings: cell i has `processes` throughputs around means[i]."""
    random = np.random.default_rng(seed)
    return [
        rank(
            {
                str(i): (mean * np.exp(random.normal(0, sd, processes))).tolist()
                for i, (mean, sd) in enumerate(zip(means, sds, strict=True))
            }
        )
        for _ in range(trials)
    ]


@pytest.mark.parametrize("cells", [2, 3, 6])
def test_equal_cells_get_a_winner_at_most_one_time_in_twenty(cells: int) -> None:
    rankings = simulate([1.0] * cells, [0.05] * cells, trials=800, seed=cells)
    assert sum(ranking.winner is not None for ranking in rankings) / 800 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 800)


def test_two_equal_cells_use_the_whole_five_percent() -> None:
    """With two cells the rule is the two-sided Welch test, whose level is 5% and not 10%."""
    rankings = simulate([1.0, 1.0], [0.05, 0.05], trials=2000, seed=11)
    assert 0.03 <= sum(ranking.winner is not None for ranking in rankings) / 2000 <= 0.065


def test_the_wrong_cell_is_hardly_ever_named_and_the_best_is_hardly_ever_excluded() -> None:
    rankings = simulate([1.02, 1.0, 1.0, 0.97], [0.03, 0.06, 0.03, 0.03], trials=800, seed=5)
    assert sum(ranking.winner not in (None, "0") for ranking in rankings) / 800 <= 0.05
    assert sum("0" not in ranking.contenders for ranking in rankings) / 800 <= 0.05


def test_a_clear_winner_is_named_with_its_margin() -> None:
    ranking = rank({"slow": [1.0, 1.01, 0.99], "fast": [2.0, 2.02, 1.98], "middle": [1.5, 1.51, 1.49]})
    assert ranking.winner == "fast"
    assert list(ranking.margins) == ["middle", "slow"]
    assert ranking.margins["middle"].value == pytest.approx(2.0 / 1.5, rel=1e-3)


def test_cells_that_cannot_be_told_apart_are_all_named_and_the_slow_one_is_not() -> None:
    ranking = rank({"a": [1.00, 1.06, 0.95], "b": [1.01, 0.96, 1.05], "slow": [0.5, 0.51, 0.49]})
    assert ranking.winner is None
    assert sorted(ranking.contenders) == ["a", "b"]


def test_for_two_cells_the_claim_is_scipys_two_sided_welch_test() -> None:
    random = np.random.default_rng(7)
    for _ in range(50):
        a, b = np.exp(random.normal(0.03, 0.03, 5)), np.exp(random.normal(0, 0.03, 5))
        p = stats.ttest_ind(np.log(a), np.log(b), equal_var=False).pvalue
        assert (rank({"a": a.tolist(), "b": b.tolist()}).winner is not None) == (p < 0.05)


@pytest.mark.parametrize("samples", [{"a": [1.0, 1.0]}, {"a": [1.0, 1.0], "b": [1.0]}])
def test_too_little_to_rank_is_refused(samples: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="two cells"):
        rank(samples)
