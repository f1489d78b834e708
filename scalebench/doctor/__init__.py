"""What of this machine would make runs fail or mislead, and what to do about it: one family of checks per file."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence

from scalebench.doctor.finding import Check, Finding, Result, examine

FAMILIES = (
    "packages",
    "versions",
    "gpus",
    "topology",
    "clocks",
    "processes",
    "limits",
    "network",
    "variables",
    "compilers",
    "builds",
    "collectives",
)
"""Each a module of this package with a tuple CHECKS, in the order in which they run."""


def diagnose(families: Sequence[str] = FAMILIES) -> Iterator[Result]:
    """Run the checks of `families` one after another; results come as they are found. Raises nothing."""
    for family in families:
        yield from examine(family, _checks(family))


def _checks(family: str) -> Sequence[Check]:
    """The family's checks; where its module cannot be imported (psutil is missing, say) one that tells so."""

    def import_() -> Iterator[Finding]:
        """The checks of this family need it."""
        raise broken

    try:
        checks: Sequence[Check] = importlib.import_module(f"scalebench.doctor.{family}").CHECKS
    except Exception as error:  # a broken library raises anything at all
        broken = error
        return (import_,)
    return checks
