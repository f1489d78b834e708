"""What becomes of a run: from reports, exceptions and dead processes to a status, a reason and an error."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from scalebench.errors import UnsupportedError
from scalebench.harness.job import Report
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
    """A finished run is ok unless what was observed contradicts what was asked."""
    contradictions = reports[0].contradictions
    if contradictions:
        reason = "what ran is not what was asked: " + "; ".join(contradictions)
        return Outcome(status="failed", reason=reason, reports=reports)
    return Outcome(status="ok", reports=reports)


def failure_outcome(failure: ProcessFailure) -> Outcome:
    """The outcome that the first failing rank's error stands for."""
    message, trace = failure_message(failure)
    return error_outcome(failure.local_rank, message, trace)


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


def failure_message(failure: ProcessFailure) -> tuple[str, str | None]:
    """(message, traceback) of a failed process: from its error file, else its exit code or signal."""
    try:
        content = json.loads(Path(failure.error_file).read_text())["message"]
    except (OSError, ValueError, KeyError):
        if failure.exitcode < 0:
            return f"Killed: by signal {-failure.exitcode} ({failure.signal_name()})", None
        return f"Exited: with code {failure.exitcode}", None
    if isinstance(content, str):
        return content, None
    return content["message"], content.get("extraInfo", {}).get("py_callstack")
