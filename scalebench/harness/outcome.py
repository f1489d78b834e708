"""What becomes of a run: from reports, exceptions and dead processes to a status, a reason and an error."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

from scalebench.errors import UnsupportedError
from scalebench.harness.job import RankFailure, Report
from scalebench.records.record import ErrorFacts, Status

OOM_SIGNS = ("out of memory", "can't allocate memory", "MemoryError", "bad_alloc", "Cannot allocate memory")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended and what it brought."""

    status: Status
    reason: str | None = None
    error: ErrorFacts | None = None
    reports: list[Report] = field(default_factory=list)


def success_outcome(reports: list[Report]) -> Outcome:
    """A finished run is ok unless what some rank observed contradicts what was asked."""
    contradictions = list(dict.fromkeys(found for report in reports for found in report.contradictions))
    if contradictions:
        reason = "what ran is not what was asked: " + "; ".join(contradictions)
        return Outcome(status="failed", reason=reason, reports=reports)
    return Outcome(status="ok", reports=reports)


def failure_outcome(failure: RankFailure) -> Outcome:
    """The outcome that the causing rank's failure stands for."""
    return error_outcome(failure.rank, failure.message, failure.traceback)


def exception_outcome(error: Exception, rank: int) -> Outcome:
    """The outcome that this rank's own exception stands for."""
    return error_outcome(rank, f"{type(error).__name__}: {error}", traceback.format_exc())


def error_outcome(rank: int, message: str, trace: str | None) -> Outcome:
    """Status and reason from `message`, which reads `ErrorClass: what happened`."""
    kind, _, text = message.partition(": ")
    text = (text or message).strip()
    error = ErrorFacts(rank=rank, kind=kind.rsplit(".", 1)[-1], message=text.split("\n", 1)[0], traceback=trace)
    if error.kind == UnsupportedError.__name__:
        return Outcome(status="unsupported", reason=text)
    if any(sign in message for sign in OOM_SIGNS):
        return Outcome(status="oom", reason=error.message, error=error)
    return Outcome(status="failed", reason=f"rank {rank}: {error.kind}: {error.message}", error=error)
