"""What travels between the runner and a rank: a Job out, a Report back. Plain values, so that they pickle fast and
safely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scalebench.meters.device import sensors_of_rank
from scalebench.records.device import SensorFacts
from scalebench.records.record import Contract, ParityFacts, RankFacts, WindowFacts, WorkloadFacts
from scalebench.records.theory import TheoryFacts
from scalebench.spec import PlannedRun, ProbeSpec


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What every rank of a launch is told, whatever it is to do.

    Attributes:
        folder: a private folder of this launch: the ranks meet there (file store) and rank 0 writes its phase there.
            None under a foreign launcher, whose environment says where to meet; so are the next two.
        launched_ns: CLOCK_MONOTONIC when the launch began, for start-up times.
        launcher_pid: the process whose end is the end of every rank.
    """

    folder: Path | None = None
    launched_ns: int | None = None
    launcher_pid: int | None = None


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
    contradictions: list[str] = field(default_factory=list)

    def with_sensors(self, sensors: Sequence[SensorFacts]) -> Report:
        """This report with what its host's sensors said of its rank's steps."""
        if self.facts is None:
            return self
        return replace(self, facts=self.facts.model_copy(update={"sensors": sensors_of_rank(sensors, self.facts)}))


@dataclass(frozen=True, kw_only=True)
class RankFailure:
    """How a rank failed: `message` reads `ErrorClass: what happened`; `raised_ns` on the file system's clock."""

    rank: int
    message: str
    traceback: str | None = None
    raised_ns: int = 0
