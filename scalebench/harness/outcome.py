"""What becomes of a run: from reports, exceptions and dead processes to a status, a reason and an error."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from scalebench.errors import UnsupportedError, UserError
from scalebench.harness import shortage
from scalebench.harness.job import RankFailure, Report
from scalebench.records.record import ErrorFacts, Status

STANDSTILLS = ("Hung", "Stopped")
TIMEOUT_KINDS = ("RuntimeError", "DistBackendError", "DistStoreError", "DistNetworkError", "TimeoutError")
TIMEOUT = re.compile(r"\btim(?:ed|e)[- ]?out\b", re.IGNORECASE)
"""In the words of gloo, NCCL and the stores that ranks meet through, when one waits in vain for another."""


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
    if failure.kind == UnsupportedError.__name__:
        return Outcome(status="unsupported", reason=failure.message)
    error = ErrorFacts(
        rank=failure.rank,
        kind=failure.kind,
        message=first_line(failure.message),
        traceback=failure.traceback,
        shortage=failure.shortage,
    )
    told = error.message if failure.kind == UserError.__name__ else f"{error.kind}: {error.message}"
    reason = f"rank {error.rank}: {told}"
    if failure.shortage:
        reason = f"{reason} ({shortage.sentence(failure.shortage)})"
    return Outcome(status=status_of(failure), reason=reason, error=error)


def status_of(failure: RankFailure) -> Status:
    """`oom`, `timeout` or `failed`."""
    if failure.shortage:
        return "oom"
    waited = failure.kind in TIMEOUT_KINDS and TIMEOUT.search(failure.message)
    return "timeout" if waited or failure.kind in STANDSTILLS else "failed"


def first_line(text: str) -> str:
    """The first line of `text` that says something."""
    return next((line for line in text.strip().split("\n") if line.strip()), "")
