"""What limits a run: per cause the seconds of a step that it costs, the evidence, and the flag to try.

Each cause is a function of stored facts alone. It returns what it found (which may be next to nothing), why it cannot
tell, or None where the cause cannot occur: one rank waits for no other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scalebench.records.probe import Probe
from scalebench.records.record import Record

from .causes import CAUSES, Limit, Run, Unknown
from .probe import probe_for
from .steps import window

LEAST_SHARE = 0.05
"""Share of a step below which a cause is not worth naming: runs differ by as much."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Where the time of a run's steps goes that is not its own computing.

    Attributes:
        step_seconds: mean duration of a step in the window.
        limits: what was found, the costliest first.
        unknown: what could not be judged, and why.
    """

    step_seconds: float
    limits: tuple[Limit, ...]
    unknown: tuple[Unknown, ...]

    @property
    def first(self) -> Limit | None:
        """What limits the run; None when nothing that could be judged costs `LEAST_SHARE` of its steps."""
        return next((limit for limit in self.limits if self.share(limit) >= LEAST_SHARE), None)

    def share(self, limit: Limit) -> float:
        """The part of a step that `limit` costs."""
        return limit.seconds / self.step_seconds


def explain(record: Record, probes: Iterable[Probe] = ()) -> Explanation | None:
    """None for a run without a timed window."""
    measured = window(record)
    if measured is None:
        return None
    run = Run(record=record, window=measured, probe=probe_for(record, probes))
    found = [one for cause in CAUSES if (one := cause(run)) is not None]
    return Explanation(
        step_seconds=run.step_seconds,
        limits=tuple(sorted((one for one in found if isinstance(one, Limit)), key=lambda one: -one.seconds)),
        unknown=tuple(one for one in found if isinstance(one, Unknown)),
    )
