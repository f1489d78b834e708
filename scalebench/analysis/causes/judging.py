"""What a cause is judged from, and what can be said of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scalebench.analysis.steps import Window
from scalebench.records.probe import Probe
from scalebench.records.record import RankFacts, Record


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One cause of lost time.

    Attributes:
        cause: its name, the same in every run.
        seconds: of a step that it costs, 0 where it is not there.
        doing: what the step does in that time, to follow its share: "waits for data".
        evidence: what shows it. remedy: what to try: a flag where there is one.
    """

    cause: str
    seconds: float
    doing: str
    evidence: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A cause that cannot be judged, and why."""

    cause: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every cause is judged from."""

    record: Record
    window: Window
    probe: Probe | None

    @property
    def step_seconds(self) -> float:
        """Mean duration of a step in the window."""
        return self.window.wall_seconds / self.window.steps

    @property
    def ranks(self) -> Sequence[RankFacts]:
        return self.record.ranks


Judgement = Limit | Unknown | None
"""None where the cause cannot occur."""
Cause = Callable[[Run], Judgement]


def milliseconds(seconds: float) -> str:
    """`12.3 ms`."""
    return f"{1e3 * seconds:.3g} ms"
