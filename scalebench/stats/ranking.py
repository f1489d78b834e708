"""Which of several cells is best, said only when the data show it.

Multiple comparisons with the best (Hsu, Annals of Statistics 9, 1981), by one-sided Welch tests with Bonferroni's
bound. Each comparison is made at (1 - confidence) / k for k cells, so that the chance of naming a winner that does not
truly exceed every other is at most 1 - confidence, even when all are equal and any of the k could be named by luck.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .intervals import CONFIDENCE, Estimate, geometric_ratio

LEAST_PROCESSES = 2


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The cell with the largest estimate, and how much larger it is than each other.

    Attributes:
        best: the cell with the largest geometric mean; only an estimate unless it is the `winner`.
        margins: each other cell, nearest first, to the ratio best / other with its simultaneous interval.
    """

    best: str
    margins: dict[str, Estimate]

    @property
    def contenders(self) -> list[str]:
        """The best by estimate and those not shown to be smaller: the truly best is among them (at the confidence)."""
        return [self.best, *(name for name, margin in self.margins.items() if margin.low is None or margin.low <= 1)]

    @property
    def winner(self) -> str | None:
        """The best, if it is shown to beat every other."""
        return self.best if len(self.contenders) == 1 else None


def rank(samples: Mapping[str, Sequence[float]], confidence: float = CONFIDENCE) -> Ranking:
    """Rank cells by one positive figure per process, larger is better.

    The margins' intervals are simultaneous: each end at (1 - confidence) / k one-sided, so that an interval above 1 is
    the very claim. Raises ValueError with fewer than two cells or fewer than `LEAST_PROCESSES` processes in one.
    """
    if len(samples) < 2 or min(map(len, samples.values())) < LEAST_PROCESSES:
        raise ValueError(f"a ranking needs two cells of {LEAST_PROCESSES} processes each")
    order = sorted(samples, key=lambda name: (-float(np.log(samples[name]).mean()), name))
    best, others = order[0], order[1:]
    simultaneous = 1 - 2 * (1 - confidence) / len(samples)
    return Ranking(
        best=best, margins={name: geometric_ratio(samples[best], samples[name], simultaneous) for name in others}
    )
