"""What travels between the runner and a rank: a Job out, a Report back. Plain values, so that they pickle fast and
safely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scalebench.harness.phase import Pulse
from scalebench.meters.device import sensors_of_rank
from scalebench.records.device import SensorFacts
from scalebench.records.memory import ShortageFacts
from scalebench.records.record import Contract, ParityFacts, RankFacts, WindowFacts, WorkloadFacts
from scalebench.records.theory import TheoryFacts
from scalebench.records.training import TrainingFacts
from scalebench.spec import PlannedRun, ProbeSpec


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What every rank of a launch is told, whatever it is to do.

    Attributes:
        folder: a private folder of this launch: the ranks meet there (file store) and leave their results and logs
            there. None under a foreign launcher, whose environment says where to meet; so are the next two.
        launched_ns: CLOCK_MONOTONIC when the launch began, for start-up times.
        pulse: where the ranks show signs of life.
    """

    folder: Path | None = None
    launched_ns: int | None = None
    pulse: Pulse | None = None


@dataclass(frozen=True, kw_only=True)
class Job(Orders):
    """One rank's part of a run."""

    run: PlannedRun


@dataclass(frozen=True, kw_only=True)
class ProbeJob(Orders):
    """One rank's part of a probe."""

    spec: ProbeSpec


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one rank found (`facts` is None for a parity check, which times nothing). Contract, workload and what
    could not be matched come from rank 0 alone."""

    facts: RankFacts | None = None
    window: WindowFacts | None = None
    contract: Contract | None = None
    workload: WorkloadFacts | None = None
    theory: TheoryFacts | None = None
    unmatched: list[str] = field(default_factory=list)
    parity: ParityFacts | None = None
    training: TrainingFacts | None = None
    contradictions: list[str] = field(default_factory=list)

    def with_sensors(self, sensors: Sequence[SensorFacts]) -> Report:
        """This report with what its host's sensors said of its rank's steps, if it made any."""
        if self.facts is None or not self.facts.step_end_ns:
            return self
        return replace(self, facts=self.facts.model_copy(update={"sensors": sensors_of_rank(sensors, self.facts)}))


@dataclass(frozen=True, kw_only=True)
class RankFailure:
    """How a rank failed.

    Attributes:
        kind: the exception's class; or Killed, Exited, OutOfMemory (by a memory limit), Stopped (by a signal that
            stops), Hung.
        traceback: of the exception, or where the rank stood, or the last that it said.
        at_ns: when (CLOCK_MONOTONIC); a death is known when it is noticed.
        shortage: for a lack of memory, how much was asked for and how much there was.
    """

    rank: int
    kind: str
    message: str
    traceback: str | None = None
    at_ns: int = 0
    shortage: ShortageFacts | None = None
