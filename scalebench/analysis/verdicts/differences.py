"""One metric of two matched cells: compared as it is, or as Student's t knows it, or not at all and why not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scalebench.analysis.cells import Cell
from scalebench.records.record import Record
from scalebench.stats.differences import LEAST_PAIRS, LEAST_SESSIONS, Difference, of_pairs, of_sessions
from scalebench.stats.intervals import geometric_mean

from .metrics import Metric

BY_SESSIONS, BY_PAIRS = "session", "pair"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One metric of two cells.

    Attributes:
        base, new: the figure of each side: the geometric mean over processes, or the very figure where they agree.
        exact: both sides are known without doubt.
        difference: of the logarithms, new less baseline; None when exact, or when nothing is known of it.
        unit: what the difference was estimated from: `pair` or `session`.
        unknown_because: why there is neither.
    """

    metric: Metric
    base: float
    new: float
    exact: bool = False
    difference: Difference | None = None
    unit: str = BY_PAIRS
    unknown_because: str | None = None

    @property
    def ratio(self) -> float:
        """New over baseline."""
        return self.new / self.base if self.difference is None else self.difference.ratio

    @property
    def worsening(self) -> Difference | None:
        """The difference, turned so that above 0 is worse."""
        found = self.difference
        if found is None or not self.metric.more_is_better:
            return found
        return Difference(mean=-found.mean, error=found.error, freedom=found.freedom, units=found.units)


def compared(base: Cell, new: Cell, metric: Metric, least_deviation: float) -> Compared | None:
    """`metric` of two cells; None where either has no figure of it, or their batches are not those it is for."""
    equal = base.spec.global_batch == new.spec.global_batch
    if metric.batches == ("unequal" if equal else "equal"):
        return None
    sides = [[value for record in cell.measured if (value := metric.positive(record))] for cell in (base, new)]
    if not all(sides):
        return None
    if metric.kind != "measured" and _agreed(sides, 1 if metric.kind == "counted" else 2):
        return Compared(metric=metric, base=sides[0][0], new=sides[1][0], exact=True)
    difference, unit, reason = _difference(base, new, metric, least_deviation)
    return Compared(
        metric=metric,
        base=geometric_mean(sides[0]).value,
        new=geometric_mean(sides[1]).value,
        difference=difference,
        unit=unit,
        unknown_because=reason,
    )


def _difference(
    base: Cell, new: Cell, metric: Metric, least_deviation: float
) -> tuple[Difference | None, str, str | None]:
    """Of pairs where there are some, else of sessions; its unit; or why it is not known."""
    pairs = pair_logs(base, new, metric)
    if len(pairs) >= LEAST_PAIRS:
        return of_pairs(pairs, least_deviation), BY_PAIRS, None
    before, after = session_logs(base, metric), session_logs(new, metric)
    reason = _too_few(before, after)
    return None if reason else of_sessions(before, after, least_deviation), BY_SESSIONS, reason


def _agreed(sides: Sequence[Sequence[float]], least: int) -> bool:
    """Whether the processes of each side have one and the same figure, and are at least so many."""
    return all(len(set(values)) == 1 and len(values) >= least for values in sides)


def _too_few(base: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> str | None:
    """Why the sessions of two sides allow no verdict; None when they do."""
    if min(sum(map(len, side)) for side in (base, new)) < LEAST_PAIRS:
        return "one process on a side tells no change from chance; measure 3 at least (--repeats 3)"
    if len(base) >= LEAST_SESSIONS:
        return None
    sessions = f"{len(base)} session{'s' if len(base) > 1 else ''}"
    return f"the baseline has {sessions}, and it takes {LEAST_SESSIONS} to know how sessions differ; or use --live"


def pair_logs(base: Cell, new: Cell, metric: Metric) -> list[float]:
    """Differences of logarithms of the repeats that one session made of both sides, in the order they ran."""
    before, after = (_by_repeat(cell.measured) for cell in (base, new))
    both = ((before[key], after[key]) for key in before if key in after)
    figures = [(metric.positive(one), metric.positive(other)) for one, other in both]
    return [math.log(other) - math.log(one) for one, other in figures if one and other]


def _by_repeat(records: Sequence[Record]) -> dict[tuple[str, int], Record]:
    return {(record.session, record.repeat): record for record in records}


def session_logs(cell: Cell, metric: Metric) -> list[list[float]]:
    """Logarithms of the figures of each session's processes."""
    found = [[math.log(value) for value in cell.values(metric.positive, session)] for session in cell.sessions]
    return [session for session in found if session]
