"""Errors for people, and the exit codes of the command."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_REGRESSION = 1
EXIT_USAGE = 2
EXIT_CELL_NOT_OK = 3
EXIT_BUG = 70
"""An error of scalebench's own (sysexits' EX_SOFTWARE), never one of the input."""
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""The reader of our output went away: 128 + SIGPIPE, as a shell reports it."""


class UserError(Exception):
    """A mistake a person can mend. The message says what was given, what is allowed and what to type next.

    The command prints it alone, without a traceback, and exits with `exit_code`.
    """

    exit_code = EXIT_USAGE


class UnsupportedError(Exception):
    """This cell cannot run here; the message says why and what to do instead. Becomes a record of status
    `unsupported`."""


def with_article(word: str) -> str:
    """`an int`, `a list`."""
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest allowed name, or an empty string when none is near."""
    near = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that is none of the allowed ones, with the nearest suggested."""
    names = sorted(allowed)
    return UserError(f"unknown {kind} '{given}'.{did_you_mean(given, names)} Allowed: {', '.join(names)}.")
