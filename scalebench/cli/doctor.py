"""`scalebench doctor`: what here would make runs fail or mislead, and what to type against it."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence

import click
from rich.console import Console

from scalebench.cli.tables import print_table
from scalebench.doctor import FAMILIES, diagnose
from scalebench.doctor.finding import Result, Status
from scalebench.errors import EXIT_CELL_NOT_OK, EXIT_OK

WORST_LAST: tuple[Status, ...] = ("ok", "unknown", "note", "problem")


@click.command()
@click.argument("families", nargs=-1, type=click.Choice(FAMILIES), metavar="[FAMILY]...")
@click.option("--json", "as_json", is_flag=True, help="Print each finding as a line of JSON instead.")
def doctor(families: tuple[str, ...], as_json: bool) -> int:
    """Check this machine for what makes runs fail or mislead, and say what to do about it.

    Families of checks: packages, versions, gpus, topology, clocks, processes, limits, network, variables, compilers,
    builds, collectives. Default: all of them.

    Exit codes: 0 no problem, 3 a problem. Notes and what could not be looked at are no problems.
    """
    results = sorted(_watched(families or FAMILIES), key=lambda result: WORST_LAST.index(result.status))
    if as_json:
        for result in results:
            click.echo(json.dumps(dataclasses.asdict(result)))
    else:
        _print(results)
    return EXIT_CELL_NOT_OK if any(result.status == "problem" for result in results) else EXIT_OK


def _watched(families: Sequence[str]) -> Iterator[Result]:
    """What `families` find; a terminal shows meanwhile which one is being checked."""
    with Console(stderr=True).status("") as line:
        for family in families:
            line.update(f"checking {family}")
            yield from diagnose([family])


def _print(results: Sequence[Result]) -> None:
    """The table, worst last; then what to do about notes and problems; then the count."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for result in results:
        alike.setdefault((result.status, result.family, result.seen), []).append(result.check)
    rows = [[status, family, ", ".join(checks), _printable(seen)] for (status, family, seen), checks in alike.items()]
    print_table(("status", "family", "checks", "seen"), rows)
    for result in results:
        if result.remedy:
            click.echo(f"\n{result.status}: {result.family}, {result.check}: {_printable(result.seen)}")
            click.echo(f"  why it matters: {result.why}")
            click.echo(f"  what to do: {_printable(result.remedy)}")
    counts = Counter(result.status for result in results)
    click.echo("\n" + ", ".join(f"{counts[status]} {status}" for status in reversed(WORST_LAST)))


def _printable(text: str) -> str:
    """What other programs said, with control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
