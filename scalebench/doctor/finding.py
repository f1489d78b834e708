"""What a check says, and how checks are run so that whatever is broken here breaks none of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "unknown", "problem"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing seen.

    Attributes:
        status: `ok`; `note`: works, with a limit worth knowing; `problem`: some run fails here or misleads;
            `unknown`: it could not be looked at, `seen` says why.
        remedy: what to type or to change; None where nothing is to be done.
    """

    status: Status
    seen: str
    remedy: str | None = None


Check = Callable[[], Iterator[Finding]]
"""Yields what it finds. Its docstring says to the user why that matters."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finding with the check that it is from."""

    family: str
    check: str
    status: Status
    seen: str
    why: str
    remedy: str | None


class CannotTellError(Exception):
    """What a check would look at is not there; the message says what and why, and the finding becomes `unknown`."""


def ok(seen: str) -> Finding:
    return Finding(status="ok", seen=seen)


def note(seen: str, remedy: str | None = None) -> Finding:
    return Finding(status="note", seen=seen, remedy=remedy)


def problem(seen: str, remedy: str) -> Finding:
    return Finding(status="problem", seen=seen, remedy=remedy)


def unknown(seen: str, remedy: str | None = None) -> Finding:
    return Finding(status="unknown", seen=seen, remedy=remedy)


def examine(family: str, checks: Sequence[Check]) -> Iterator[Result]:
    """What each check finds. One that raises becomes an `unknown` finding with its exception, beside what it had."""
    for check in checks:
        for finding in _guarded(check):
            yield Result(
                family=family,
                check=check.__name__.replace("_", " ").strip(),
                status=finding.status,
                seen=finding.seen,
                why=" ".join((inspect.getdoc(check) or "").split()),
                remedy=finding.remedy,
            )


def _guarded(check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except CannotTellError as error:
        yield unknown(str(error))
    except Exception as error:  # a broken library raises anything at all
        yield unknown(f"{type(error).__name__}: {error}")
